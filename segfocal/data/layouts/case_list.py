"""A list of cases: CSV, TSV or JSON that names the files of each.

Columns or keys: `id`, `label`, and `image` or one column a channel; `annotated` (names of what the
case was annotated for, separated by `;`) and `source` where there are partial labels. JSON is a
list of objects, or an object with that list under `cases` or `training` (MONAI's data lists);
`image` is a path, a list of paths or an object of them by channel.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segfocal.data.cases import Case, MissingFile, channel_indices
from segfocal.data.layouts.found import (
    Exclusion,
    FileRules,
    Found,
    is_there,
    is_volume,
    lacking_files,
    noting,
    sorted_cases,
    spellings,
)
from segfocal.data.nifti_header import case_stem
from segfocal.errors import UserError
from segfocal.files import read_json_value

LIST_NAMES = ("cases.csv", "cases.tsv", "cases.json")
"""Names under which a list is found without being named."""

LIST_ENDINGS = (".csv", ".tsv", ".json")
"""Endings of a list's name, in letters of either size."""

_ID_KEYS = ("id", "case", "case_id")
_RESERVED = (*_ID_KEYS, "label", "annotated", "source")
_JSON_LISTS = {True: ("cases", "training"), False: ("cases", "test", "training")}
"""Where an object keeps its list: with labels, and without."""


@dataclass(frozen=True)
class _Row:
    """One case as the list writes it.

    Attributes:
        place: `line 7` or `entry 6`, for errors.
        fields: Lower-case keys of the reserved columns, others as written.
    """

    place: str
    fields: Mapping[str, Any]

    def text(self, key: str) -> str:
        value = self.fields.get(key)
        return value.strip() if isinstance(value, str) else ""


def find_list(root: Path) -> Path | None:
    """The list that lies in a data set's folder under one of the usual names."""
    return next((root / name for name in LIST_NAMES if (root / name).is_file()), None)


def read_list(
    root: Path,
    rules: FileRules,
    skip: Exclusion,
    *,
    labelled: bool = True,
    images: bool = True,
) -> Found:
    r"""The cases of a list.

    Paths are taken from the root, or where nothing is there from the list's own folder. They must
    stay inside the root, links followed. `images\a.nii.gz`, as Windows writes it, is
    `images/a.nii.gz` where no file has the backslash in its name.

    Args:
        root: `data.root`.
        rules: `case_list` is the file; else it is found by `find_list`. `channels` chooses and
            orders columns, or keys of the object `image`; or names the files of the list `image`,
            or what the one file of `image` holds.
        skip: Cases to leave out.
        labelled: Whether a case must have a label.
        images: Whether a list must name images; an evaluation needs the labels alone.

    A row that is no case, is one that stood before, or names a path outside the root is among the
    faults.

    Raises:
        UserError: If the list is missing or malformed, or names no case.
    """
    path = _list_path(root, rules.case_list)
    rows = (
        _json_rows(path, labelled=labelled) if path.suffix.lower() == ".json" else _csv_rows(path)
    )
    if not rows:
        raise UserError(f"{path}: lists no case.")
    channels, is_single = _channels(path, rows, rules.channels, needed=images)
    keys = ("image",) if is_single else channels
    cases: dict[str, Case] = {}
    faults: list[str] = []
    for row in rows:
        where = f"{path}: {row.place}"
        with noting(faults):
            listed = _images(where, row, channels, rules.channels, is_single=is_single)
            case_id = _case_id(where, row, listed)
            if case_id in cases:
                raise UserError(f"{where}: case {case_id} is listed twice. Keep one.")
            if not skip(case_id):
                named = dict(zip(keys, listed, strict=True))
                if labelled:
                    named["label"] = row.text("label")
                cases[case_id] = _case(root, path, row, case_id, keys, named)
    expected = f"the files that it lists, below {root}"
    ordered = sorted_cases(str(path), cases.values(), expected, faults)
    refusal = lacking_files(str(path), ordered, expected, labelled=labelled)
    return Found(channels, ordered, refusal, faults=tuple(faults))


def _case(
    root: Path,
    path: Path,
    row: _Row,
    case_id: str,
    keys: Sequence[str],
    named: Mapping[str, str],
) -> Case:
    """A case of those files of `named` (by channel, and `label`) that are there."""
    where = f"{path}: {row.place}"
    files = {
        key: _resolve(where, root, path.parent, text) if text else None
        for key, text in named.items()
    }
    here = {key: file for key, file in files.items() if file is not None and is_there(file)}
    return Case(
        case_id,
        tuple(here[key] for key in keys if key in here),
        here.get("label"),
        _annotated(where, row),
        row.text("source"),
        tuple(
            MissingFile(key, named[key] or f"a path in {row.place} of {path.name}")
            for key in named
            if key not in here
        ),
    )


def _list_path(root: Path, named: Path | None) -> Path:
    if named is None:
        found = find_list(root)
        if found is None:
            raise UserError(f"{root}: holds none of {', '.join(LIST_NAMES)}. Set data.case_list.")
        return found
    for candidate in (named, root / named):
        if candidate.is_file():
            if candidate.suffix.lower() not in LIST_ENDINGS:
                raise UserError(f"data.case_list: {candidate}: expected .csv, .tsv or .json.")
            return candidate
    raise UserError(f"data.case_list: {named} does not exist, here or in {root}.")


def _csv_rows(path: Path) -> list[_Row]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is not UTF-8 text. Save it as UTF-8."
        ) from error
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = ";" if first.count(";") > first.count(",") else ","
    if path.suffix.lower() == ".tsv":
        delimiter = "\t"
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[_Row] = []
    header: list[str] = []
    try:
        for values in reader:
            if not any(value.strip() for value in values):
                continue
            if not header:
                header = _header(path, values)
                continue
            if len(values) != len(header):
                raise UserError(
                    f"{path}: line {reader.line_num}: has {len(values)} values, the header "
                    f"{len(header)}. Quote a value that holds {delimiter!r}."
                )
            rows.append(_Row(f"line {reader.line_num}", dict(zip(header, values, strict=True))))
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: is not CSV: {error}.") from error
    return rows


def _header(path: Path, values: Sequence[str]) -> list[str]:
    header = [_key(value) for value in values]
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None or "" in header:
        what = f"column {twice!r} stands twice" if twice else "a column has no name"
        raise UserError(f"{path}: line 1: {what}. Expected id, image (or channels), label.")
    return header


def _json_rows(path: Path, *, labelled: bool) -> list[_Row]:
    plain, keys = read_json_value(path), _JSON_LISTS[labelled]
    entries = plain
    if isinstance(plain, dict):
        entries = next((plain[key] for key in keys if key in plain), None)
    if not isinstance(entries, list):
        raise UserError(
            f'{path}: expected a list of {{"id": ..., "image": ..., "label": ...}}, or an object '
            f"with one under {' or '.join(keys)}."
        )
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: entry {number}: expected an object, got {entry!r}.")
    return [
        _Row(f"entry {number}", {_key(key): value for key, value in entry.items()})
        for number, entry in enumerate(entries)
    ]


def _key(name: str) -> str:
    bare = name.strip()
    return bare.lower() if bare.lower() in (*_RESERVED, "image") else bare


def _channels(
    path: Path, rows: Sequence[_Row], wanted: Sequence[str] | None, *, needed: bool
) -> tuple[tuple[str, ...], bool]:
    """The channels' names, and whether one file holds them all."""
    first = rows[0].fields
    if "image" not in first:
        held = [
            key
            for key in first
            if key not in _RESERVED and any(_is_path(row.fields.get(key)) for row in rows)
        ]
        if not held and not needed:
            return (), False
        if not held:
            raise UserError(
                f"{path}: names no image. Expected a column image, or one for each channel; it has "
                f"{', '.join(first)}."
            )
        if wanted is not None:
            channel_indices(held, wanted)
        return tuple(wanted or held), False
    image = first["image"]
    if isinstance(image, dict):
        if wanted is not None:
            objects = [row.fields.get("image") for row in rows]
            named = (name for one in objects if isinstance(one, dict) for name in one)
            channel_indices(list(dict.fromkeys(named)), wanted)
        return tuple(wanted or image), False
    if isinstance(image, list):
        if wanted is None or len(wanted) != len(image):
            raise UserError(
                f"data.channels: expected {len(image)} names, one for each file of image in {path}."
            )
        return tuple(wanted), False
    return tuple(wanted or ("image",)), True


def _images(
    where: str,
    row: _Row,
    channels: Sequence[str],
    wanted: Sequence[str] | None,
    *,
    is_single: bool,
) -> tuple[str, ...]:
    """The paths of a case as written, in channel order; "" where one is not given."""
    image = row.fields.get("image")
    if isinstance(image, list):
        listed: Sequence[Any] = image
    elif isinstance(image, dict):
        listed = [image.get(name, "") for name in channels]
        unknown = [name for name in image if name not in channels]
        if unknown and wanted is None:
            raise UserError(
                f"{where}: channel {unknown[0]} is not one of {', '.join(channels)}. Name the same "
                f"channels for every case."
            )
    else:
        listed = [image] if "image" in row.fields else [row.fields.get(name) for name in channels]
    texts = tuple("" if value is None else value for value in listed)
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{where}: expected paths, got {image!r}.")
    expected = 1 if is_single else len(channels)
    if len(texts) != expected:
        raise UserError(
            f"{where}: has {len(texts)} image files, expected {expected} ({', '.join(channels)})."
        )
    return tuple(text.strip() for text in texts)


def _case_id(where: str, row: _Row, listed: Sequence[str]) -> str:
    key = next((key for key in _ID_KEYS if key in row.fields), None)
    if key is None and len(listed) != 1:
        raise UserError(f"{where}: has no id. Add a column id: a case has {len(listed)} images.")
    case_id = (
        case_stem(Path(listed[0].replace("\\", "/"))) if key is None else _text(row.fields[key])
    )
    if not case_id or re.search(r"[/\\\x00-\x1f]", case_id) or case_id in (".", ".."):
        raise UserError(
            f"{where}: id {case_id!r}: expected a name that can be a file's, without slashes."
        )
    return case_id


def _annotated(where: str, row: _Row) -> tuple[str, ...] | None:
    """What the case was annotated for; None where nothing is said."""
    given = row.fields.get("annotated")
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    names = re.split(r"[;,|]", given) if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{where}: annotated: expected names, got {given!r}.")
    return tuple(name.strip() for name in names if name.strip())


def _resolve(where: str, root: Path, beside: Path, text: str) -> Path:
    """A listed path, from the root or from the list's folder, that stays inside the root.

    Raises:
        UserError: If it leaves the root.
    """
    inside = [
        candidate
        for spelling in spellings(text)
        for candidate in (root / spelling, beside / spelling)
        if candidate.resolve().is_relative_to(root.resolve())
    ]
    if not inside:
        raise UserError(
            f"{where}: {text} lies outside {root}. Set data.root to a folder that holds every "
            f"file, or copy it there."
        )
    return next((candidate for candidate in inside if candidate.is_file()), inside[0])


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and is_volume(value.strip())
