"""BIDS: images in sub-*/[ses-*/]..., labels in derivatives/.../sub-*/..., chosen by their entities.

A channel is named as the file's name ends: `dwi`, or `acq-b1000_dwi` where there are several.
https://bids-specification.readthedocs.io
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segfocal.data.cases import Case, MissingFile
from segfocal.data.layouts.found import (
    Exclusion,
    FileRules,
    Found,
    lacking_files,
    noting,
    sorted_cases,
    walk_volumes,
)
from segfocal.data.nifti_header import case_stem
from segfocal.errors import UserError

LABEL_SUFFIXES = ("mask", "dseg", "msk", "seg", "label", "lesion", "roi")
"""How the name of a label ends; `mask` and `dseg` are BIDS', the others are met in the wild."""


@dataclass(frozen=True)
class _File:
    """A volume and what its name says.

    Attributes:
        path: The file.
        entities: `sub`, `ses`, `acq` and the like to their values.
        suffix: The last word of the name.
    """

    path: Path
    entities: dict[str, str]
    suffix: str

    @property
    def case(self) -> tuple[str, str]:
        """Subject and session, "" without one."""
        return self.entities["sub"], self.entities.get("ses", "")


def is_bids(root: Path) -> bool:
    """Whether a folder, or `rawdata` in it, holds sub-* folders."""
    return _raw_folder(root) is not None


def read_bids(root: Path, rules: FileRules, skip: Exclusion, *, labelled: bool = True) -> Found:
    """The subjects, or their sessions, that have an image of any channel or a label.

    Of several files that fit a channel, the one whose name holds nothing more is taken. A channel
    that the raw data lack is looked for among the derivatives (a registered image).

    Args:
        root: Folder with sub-* (or rawdata/sub-*) and derivatives.
        rules: `channels` names the channels; `label_pattern` picks the label by its file name.
        skip: Cases to leave out: `sub-01`, `sub-01_ses-02`.
        labelled: Whether a case must have a label.

    A case of which several files fit a channel or the label equally well is among the faults.

    Raises:
        UserError: If channels are not named, or there is no case.
    """
    raw_folder = _raw_folder(root)
    if raw_folder is None:
        raise UserError(f"{root}: holds no sub-* folder, nor does rawdata in it. Is this BIDS?")
    raw = [
        file for folder in sorted(raw_folder.glob("sub-*")) for file in _files(walk_volumes(folder))
    ]
    derived = _files(walk_volumes(root / "derivatives"))
    if rules.channels is None:
        suffixes = sorted({file.suffix for file in raw})
        raise UserError(
            f"data.channels is not set: name the files that make up a case, as data.channels: "
            f"[{', '.join(suffixes[:2])}]. {raw_folder} holds {', '.join(suffixes)}."
        )
    channels = tuple(rules.channels)
    wanted = rules.label_pattern or f"*_{{{','.join(LABEL_SUFFIXES)}}}.nii.gz"
    raw_name = "" if raw_folder == root else f"{raw_folder.name}/"
    cases = []
    faults: list[str] = []
    for key in sorted({file.case for file in raw}):
        parts = [f"{e}-{v}" for e, v in zip(("sub", "ses"), key, strict=True) if v]
        case_id, folder = "_".join(parts), "/".join(parts)
        if skip(case_id):
            continue
        own = [file for file in raw if file.case == key]
        besides = [file for file in derived if _belongs(file, key, raw)]
        num_faults = len(faults)
        images: list[Path | None] = []
        label = None
        for name in channels:
            with noting(faults):
                images.append(_channel(case_id, own, besides, name))
        with noting(faults):
            label = _label(case_id, besides, rules.label_pattern) if labelled else None
        if len(faults) > num_faults or (all(image is None for image in images) and label is None):
            continue
        missing = [
            MissingFile(name, f"{raw_name}{folder}/.../*_{name}.nii.gz")
            for name, image in zip(channels, images, strict=True)
            if image is None
        ]
        if labelled and label is None:
            missing.append(MissingFile("label", f"derivatives/.../{folder}/.../{wanted}"))
        held = tuple(image for image in images if image)
        cases.append(Case(case_id, held, label, missing=tuple(missing)))
    expected = f"{raw_folder.name}/sub-*/.../*_{{{','.join(channels)}}}.nii.gz"
    if labelled:
        expected += f" and derivatives/.../sub-*/.../{wanted}"
    ordered = sorted_cases(str(root), cases, expected, faults)
    refusal = lacking_files(str(root), ordered, expected, labelled=labelled)
    return Found(channels, ordered, refusal, faults=tuple(faults))


def _raw_folder(root: Path) -> Path | None:
    for folder in (root, root / "rawdata"):
        if any(path.is_dir() for path in folder.glob("sub-*")):
            return folder
    return None


def _files(paths: Sequence[Path]) -> list[_File]:
    """The files that are named as BIDS wants it: `sub-01[_key-value ...]_suffix`."""
    files = []
    for path in paths:
        *pairs, suffix = case_stem(path).split("_")
        entities = dict(pair.split("-", 1) for pair in pairs if "-" in pair)
        if "sub" in entities and suffix:
            files.append(_File(path, entities, suffix))
    return files


def _belongs(file: _File, key: tuple[str, str], raw: Sequence[_File]) -> bool:
    """Whether a derivative is of this case.

    One without a session is of its subject's only session, where there is only one.
    """
    subject, session = key
    if file.entities["sub"] != subject:
        return False
    if "ses" in file.entities or not session:
        return file.entities.get("ses", "") == session
    return len({other.case for other in raw if other.entities["sub"] == subject}) == 1


def _channel(
    case_id: str, own: Sequence[_File], derived: Sequence[_File], name: str
) -> Path | None:
    """The file of a channel, among the case's own before those derived from it."""
    *pairs, suffix = name.split("_")
    wanted = {tuple(pair.split("-", 1)) for pair in pairs}
    for files in (own, derived):
        fitting = [
            file
            for file in files
            if file.suffix.casefold() == suffix.casefold() and wanted <= set(file.entities.items())
        ]
        if fitting:
            return _plainest(case_id, fitting, f"channel {name}", "data.channels")
    return None


def _label(case_id: str, derived: Sequence[_File], pattern: str | None) -> Path | None:
    fitting = [
        file
        for file in derived
        if (
            fnmatch.fnmatchcase(file.path.name, pattern)
            if pattern is not None
            else file.suffix in LABEL_SUFFIXES and file.entities.get("desc") != "brain"
        )
    ]
    if len(fitting) > 1:
        names = ", ".join(file.path.name for file in fitting[:4])
        raise UserError(
            f"{case_id}: {len(fitting)} files may be its label: {names}. Set data.label_pattern "
            f"to the names to take, e.g. *_{_tail(fitting[0])}."
        )
    return fitting[0].path if fitting else None


def _plainest(case_id: str, files: Sequence[_File], what: str, setting: str) -> Path:
    fewest = min(len(file.entities) for file in files)
    plain = [file for file in files if len(file.entities) == fewest]
    if len(plain) > 1:
        names = ", ".join(file.path.name for file in plain[:4])
        example = _tail(plain[0]).split(".", 1)[0]
        raise UserError(
            f"{case_id}: {len(plain)} files fit {what}: {names}. Say which in {setting}, e.g. "
            f"{example}."
        )
    return plain[0].path


def _tail(file: _File) -> str:
    """A file's name without subject and session."""
    parts = file.path.name.split("_")
    return "_".join(part for part in parts if not part.startswith(("sub-", "ses-")))
