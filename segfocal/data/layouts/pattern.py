"""Plain folders by pattern: `images/{case}_{channel}.nii.gz`, `labels/{case}.nii.gz`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segfocal.data.cases import Case, MissingFile
from segfocal.data.layouts.found import (
    READABLE,
    Exclusion,
    FileRules,
    Found,
    is_volume,
    lacking_files,
    noting,
    sorted_cases,
    walk_volumes,
)
from segfocal.errors import UserError

IMAGES, LABELS = "images/{case}", "labels/{case}"
"""The patterns where the config gives none."""

_SINGLE = "image"
_TOKEN = re.compile(r"\{([^{}]*)\}|\*\*/|\*")
_ENDING = "(?i:" + "|".join(map(re.escape, READABLE)) + ")"


def is_folder(root: Path) -> bool:
    """Whether a folder holds images and labels under the names taken by default."""
    return all((root / pattern).parent.is_dir() for pattern in (IMAGES, LABELS))


def fits_images(root: Path, rules: FileRules) -> bool:
    """Whether any file below a folder fits the images' pattern, and not that of the labels.

    Raises:
        UserError: If a pattern is malformed.
    """
    label = _label_pattern(rules)
    _, patterns = _image_patterns(rules.image_pattern or IMAGES, rules.channels)
    paths = [path.relative_to(root).as_posix() for path in walk_volumes(root)]
    return any(
        pattern.fullmatch(path) and not label.fullmatch(path)
        for path in paths
        for _, pattern in patterns
    )


def read_folder(root: Path, rules: FileRules, skip: Exclusion, *, labelled: bool = True) -> Found:
    """The cases whose files fit the patterns.

    In a pattern, `{case}` stands for the case's id and `{channel}` for one of `data.channels`; `*`
    for anything within a name, `**/` for any folders. A pattern without a file's ending takes any
    that segfocal reads. A file that fits the label's pattern is never an image.

    Args:
        root: The folder that the patterns start from.
        rules: Patterns and channels. Without `{channel}` and without a pattern for each channel, a
            file holds all channels of a case.
        skip: Cases to leave out.
        labelled: Whether a case must have a label.

    A second file that fits one place is among the faults.

    Raises:
        UserError: If a pattern is malformed or meets nothing.
    """
    label_rule = _label_pattern(rules)
    named = IMAGES if rules.image_pattern is None else rules.image_pattern
    channels, patterns = _image_patterns(named, rules.channels)
    files: dict[str, dict[str, Path]] = {}
    labels: dict[str, Path] = {}
    faults: list[str] = []
    volumes = walk_volumes(root)
    for path in volumes:
        relative = path.relative_to(root).as_posix()
        match = label_rule.fullmatch(relative)
        if match is not None:
            with noting(faults):
                _add(labels, match["case"], path, f"labels of {match['case']}")
            continue
        for name, pattern in patterns:
            match = pattern.fullmatch(relative)
            if match is not None:
                channel = match.groupdict().get("channel") or name
                held = files.setdefault(match["case"], {})
                with noting(faults):
                    _add(held, channel, path, f"{channel} of one case")
                break
    if not files:
        shown = ", ".join(str(path.relative_to(root)) for path in volumes[:3])
        raise UserError(
            f"data.image_pattern: {_told(named)} meets no file in {root}. It holds "
            f"{shown or 'no volume at all'}."
        )
    keys = channels if len(patterns) > 1 or "channel" in patterns[0][1].groupindex else (_SINGLE,)
    cases = []
    for case_id in {*files, *(labels if labelled else ())}:
        if skip(case_id):
            continue
        held_files = files.get(case_id, {})
        missing = [
            MissingFile(key, _place(named if isinstance(named, str) else named[key], case_id, key))
            for key in keys
            if key not in held_files
        ]
        if labelled and case_id not in labels:
            missing.append(MissingFile("label", _place(rules.label_pattern or LABELS, case_id)))
        images = tuple(held_files[key] for key in keys if key in held_files)
        label = labels.get(case_id) if labelled else None
        cases.append(Case(case_id, images, label, missing=tuple(missing)))
    expected = f"{_told(named)} and {rules.label_pattern or LABELS}" if labelled else _told(named)
    ordered = sorted_cases(str(root), cases, expected, faults)
    refusal = lacking_files(str(root), ordered, expected, labelled=labelled)
    return Found(channels, ordered, refusal, faults=tuple(faults))


def _place(pattern: str, case_id: str, channel: str = "") -> str:
    """Where a pattern looks for a file: `images/p1_flair.nii.gz`."""
    filled = pattern.replace("{case}", case_id).replace("{channel}", channel)
    return filled if is_volume(filled) else f"{filled}{READABLE[0]}"


def _label_pattern(rules: FileRules) -> re.Pattern[str]:
    return _compiled("data.label_pattern", rules.label_pattern or LABELS, None)


def _image_patterns(
    named: str | Mapping[str, str], channels: Sequence[str] | None
) -> tuple[tuple[str, ...], list[tuple[str, re.Pattern[str]]]]:
    """Channel names in file order, and a pattern for each or one for all."""
    setting = "data.image_pattern"
    if not isinstance(named, str):
        if not named:
            raise UserError(f"{setting}: names no channel. Expected CHANNEL: pattern.")
        rules = [(name, _compiled(f"{setting}.{name}", text, None)) for name, text in named.items()]
        return tuple(named), rules
    if "{channel}" not in named:
        return tuple(channels or (_SINGLE,)), [(_SINGLE, _compiled(setting, named, None))]
    if channels is None:
        raise UserError(
            f"data.channels is not set: {setting} has {{channel}}. Name the channels as the files "
            f"do, e.g. data.channels: [t1, flair]."
        )
    return tuple(channels), [("", _compiled(setting, named, channels))]


def _compiled(setting: str, text: str, channels: Sequence[str] | None) -> re.Pattern[str]:
    """A pattern of the config as a regular expression over paths below the root."""
    parts, end, seen = [], 0, set()
    for token in _TOKEN.finditer(text):
        parts.append(re.escape(text[end : token.start()]))
        end, word = token.end(), token[1]
        if token[0] == "**/":
            parts.append("(?:.*/)?")
        elif token[0] == "*":
            parts.append("[^/]*")
        elif word in seen:
            parts.append(f"(?P={word})")
        elif word == "case":
            parts.append("(?P<case>[^/]+?)")
        elif word == "channel" and channels is not None:
            parts.append(f"(?P<channel>{'|'.join(map(re.escape, channels))})")
        else:
            raise UserError(
                f"{setting}: {token[0]} has no meaning here. Known: {{case}}, {{channel}} (in the "
                f"pattern of all channels), * and **/."
            )
        seen.add(word)
    if "case" not in seen:
        raise UserError(f"{setting}: {text} has no {{case}}. Expected e.g. images/{{case}}.nii.gz.")
    parts.append(re.escape(text[end:]))
    return re.compile("".join(parts) + ("" if is_volume(text) else _ENDING))


def _add(files: dict[str, Path], key: str, path: Path, what: str) -> None:
    if key in files:
        raise UserError(
            f"{files[key]} and {path} are both {what}. Remove one, or mend the pattern."
        )
    files[key] = path


def _told(named: str | Mapping[str, str]) -> str:
    return named if isinstance(named, str) else ", ".join(named.values())
