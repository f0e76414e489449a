"""BraTS folders: one folder a case, whose files carry its name and the kind of image.

2017-2020 and 2021: `BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz`, t1, t1ce, t2, seg, in
some years below HGG and LGG. Since 2023: `BraTS-GLI-00000-000/BraTS-GLI-00000-000-t2f.nii.gz`, t1n,
t1c, t2w, seg. Enhancing tumour is label 4 in the former and 3 in the latter. In 2024 the glioma
cases are numbered from 100 (`BraTS-GLI-00005-100`), and 4 is the resection cavity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segfocal.data.cases import Case, MissingFile
from segfocal.data.layouts.found import (
    Exclusion,
    Found,
    lacking_files,
    noting,
    sorted_cases,
    walk_volumes,
)
from segfocal.data.nifti_header import case_stem
from segfocal.errors import UserError

CHANNELS = ("FLAIR", "T1w", "T1gd", "T2w")
"""The four images by the names and in the order of MSD, whatever a year calls them."""

_KINDS = {
    "until 2022": ("flair", "t1", "t1ce", "t2"),
    "since 2023": ("t2f", "t1n", "t1c", "t2w"),
}
_SEPARATORS = {"until 2022": "_", "since 2023": "-"}
_PRESETS = {"until 2022": "brats18-22", "since 2023": "brats23"}
_AFTER_TREATMENT = re.compile(r"BraTS-GLI-\d+-[1-9]\d\d", re.IGNORECASE)
_CHANGING = re.compile(r"BraTS-(PED|MEN-RT)\b", re.IGNORECASE)
_DEPTH = 4


def is_brats(root: Path) -> bool:
    """Whether there is a folder BraTS... whose files carry its name, up to three levels down."""
    return any(
        _kind_of(path) is not None
        for level in ("", "*/", "*/*/")
        for folder in root.glob(f"{level}[bB][rR][aA][tT][sS]*")
        if folder.is_dir()
        for path in walk_volumes(folder, 0)
    )


def read_brats(root: Path, skip: Exclusion, *, labelled: bool = True) -> Found:
    """The cases of a BraTS folder.

    Args:
        root: A folder of folders of cases, HGG and LGG between them or not.
        skip: Cases to leave out.
        labelled: Whether a case must have its `seg` file.

    A second folder of one case, and a second file of one image, are among the faults.

    Raises:
        UserError: If there is none, or cases of both namings are there, whose labels differ.
    """
    cases: dict[str, dict[str, Path]] = {}
    folders: dict[str, Path] = {}
    years: dict[str, str] = {}
    faults: list[str] = []
    for path in walk_volumes(root, _DEPTH):
        found = _kind_of(path)
        if found is None:
            continue
        kind, year = found
        case_id = path.parent.name
        if skip(case_id):
            continue
        files = cases.setdefault(case_id, {})
        with noting(faults):
            _check_alone(root, folders.setdefault(case_id, path.parent), path, files.get(kind))
            files[kind] = path
        if year:
            years.setdefault(year, case_id)
    if len(years) > 1:
        old, new = years["until 2022"], years["since 2023"]
        raise UserError(
            f"{root}: {old} is named as until 2022, {new} as since 2023, and their labels differ. "
            f"Point data.root at one of them, or list the cases (data.case_list)."
        )
    year = next(iter(years), "since 2023")
    mark, kinds = _SEPARATORS[year], _KINDS[year]
    wanted = (*kinds, "seg") if labelled else kinds
    expected = f"CASE/CASE{mark}{'|'.join(wanted)}.nii.gz"
    if not cases:
        expected += " (or the names until 2022, CASE_flair.nii.gz)"
    names = dict(zip(CHANNELS, kinds, strict=True)) | ({"label": "seg"} if labelled else {})
    built = (_case(root, folders[case_id], files, mark, names) for case_id, files in cases.items())
    ordered = sorted_cases(str(root), built, expected, faults)
    refusal = lacking_files(str(root), ordered, expected, labelled=labelled, words=names)
    told = tuple(dict.fromkeys(faults))
    return Found(CHANNELS, ordered, refusal, *_preset(year, tuple(cases)), told)


def _check_alone(root: Path, folder: Path, path: Path, same: Path | None) -> None:
    """Refuses a case in two folders, and an image in two files.

    Args:
        root: The data set's.
        folder: Where the case was first met.
        path: The file.
        same: The file met before that is the same image; None without one.
    """
    if folder != path.parent:
        raise UserError(
            f"{root}: {folder.relative_to(root)} and {path.parent.relative_to(root)} are both case "
            f"{path.parent.name}. Keep one, or point data.root at one part."
        )
    if same is not None:
        raise UserError(f"{same} and {path.name} are the same image. Remove one.")


def _preset(year: str, case_ids: Sequence[str]) -> tuple[str | None, str]:
    """What the names imply of the labels, and why."""
    if any(_CHANGING.match(case_id) for case_id in case_ids):
        return None, ""
    if any(_AFTER_TREATMENT.fullmatch(case_id) for case_id in case_ids):
        return "brats24", "names as in 2024, after treatment"
    return _PRESETS[year], f"names as {year}"


def _case(
    root: Path, folder: Path, files: Mapping[str, Path], mark: str, names: Mapping[str, str]
) -> Case:
    """A case of those files that its folder holds; `names` are their kinds by channel."""
    missing = tuple(
        MissingFile(name, f"{folder.relative_to(root) / folder.name}{mark}{kind}.nii.gz")
        for name, kind in names.items()
        if kind not in files
    )
    images = tuple(files[names[name]] for name in CHANNELS if names[name] in files)
    label = files.get("seg") if "label" in names else None
    return Case(folder.name, images, label, missing=missing)


def _kind_of(path: Path) -> tuple[str, str] | None:
    """`flair` and its years; `seg` and ""; None for a file that is not named after its folder."""
    stem, case_id = case_stem(path), path.parent.name
    if not stem.startswith(case_id) or len(stem) <= len(case_id):
        return None
    mark, kind = stem[len(case_id)], stem[len(case_id) + 1 :].lower()
    for year, kinds in _KINDS.items():
        if mark == _SEPARATORS[year] and kind in kinds:
            return kind, year
    return ("seg", "") if kind == "seg" and mark in _SEPARATORS.values() else None
