"""Which prediction belongs to which reference: by name, and what has no partner."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segfocal.data.cases import Case
from segfocal.data.defects import Problem
from segfocal.data.layouts.folder import volume_files
from segfocal.data.layouts.found import READABLE, is_volume
from segfocal.errors import UserError
from segfocal.evaluation.label_files import by_name
from segfocal.evaluation.references import References

_MARKS = ("seg", "pred", "label", "mask", "trans")
"""Words that programs put behind a case's name: BraTS' `-seg`, MONAI's `_seg` and `_trans`."""

_SHOWN = 3


@dataclass(frozen=True)
class Pair:
    """A prediction and the case it is of.

    Attributes:
        prediction: The predicted label file.
        case: The case, with its label: the reference.
        probabilities: Class or region to the file with its probabilities, where there is one.
    """

    prediction: Path
    case: Case
    probabilities: Mapping[str, Path] = field(default_factory=dict)

    @property
    def reference(self) -> Path:
        """The reference's label file."""
        assert self.case.label is not None
        return self.case.label


@dataclass(frozen=True)
class Predictions:
    """Predicted label files.

    Attributes:
        files: By name without its ending.
        problems: Names that two files have.
        is_file: Whether this is one file.
    """

    files: Mapping[str, Path]
    problems: tuple[Problem, ...] = ()
    is_file: bool = False


def find_predictions(path: Path) -> Predictions:
    """The label files of a folder, or one file.

    Raises:
        UserError: If nothing is there, or no volume.
    """
    if not path.exists():
        raise UserError(f"--pred {path} does not exist. Expected a folder of label files, or one.")
    if path.is_file():
        if not is_volume(path.name):
            raise UserError(f"--pred {path}: expected a volume ({', '.join(READABLE)}).")
        return Predictions(by_name([path])[0], is_file=True)
    files, problems = by_name(volume_files(path))
    if not files and not problems:
        held = sorted(one.name for one in path.iterdir() if not one.name.startswith("."))
        raise UserError(
            f"--pred {path}: holds no volume ({', '.join(READABLE)}); it holds "
            f"{', '.join(held[:4]) or 'nothing'}. Pass the folder that holds the label files."
        )
    return Predictions(files, tuple(problems))


def pair_up(
    predictions: Predictions, references: References, *, allow_missing: bool
) -> tuple[list[Pair], list[Problem]]:
    """Pairs of one name, sorted, and a problem for each file that has no partner.

    A name that fits no other is tried without `_seg`, `-seg` and the like behind it, and whether
    its accents are letters of their own or not; where two files of a side are then of one name,
    neither is taken.

    Args:
        predictions: The predictions.
        references: The references.
        allow_missing: References without a prediction are no problem.

    Raises:
        UserError: If there is no pair at all.
    """
    if predictions.is_file and references.is_file:
        return [Pair(next(iter(predictions.files.values())), references.cases[0])], []
    cases = {case.case_id: case for case in references.cases}
    twice = {problem.case_id for problem in (*predictions.problems, *references.problems)}
    partner, unclear = _partners(predictions.files, cases)
    left = sorted(set(cases) - set(partner.values()))
    pairs = []
    problems = [_either(bare, *names) for bare, names in unclear.items()]
    twice |= {name for names in unclear.values() for side in names for name in side}
    for name, path in predictions.files.items():
        if name in partner and cases[partner[name]].label is not None:
            pairs.append(Pair(path, cases[partner[name]]))
        elif name not in twice:
            problems.append(_no_reference(name, path, cases.get(partner.get(name, "")), left))
    if not allow_missing and not predictions.is_file:
        problems += [
            Problem(
                case_id,
                "missing-file",
                f"has no prediction {case_id}.nii.gz. Predict it, or pass --allow-missing.",
            )
            for case_id in left
            if case_id not in twice and cases[case_id].label is not None
        ]
    if not pairs:
        if unclear:
            raise UserError(str(problems[0]))
        problems += [*predictions.problems, *references.problems]
        raise UserError(_nothing(predictions, references, problems))
    return sorted(pairs, key=lambda pair: pair.case.case_id), problems


def _partners(
    files: Mapping[str, Path], cases: Mapping[str, Case]
) -> tuple[dict[str, str], dict[str, tuple[list[str], list[str]]]]:
    """Name of a prediction to the case that it is of; and what could be of several.

    The latter by the name that they share: predictions and cases.
    """
    partner = {name: name for name in files if name in cases}
    left_files, left_cases = (
        _by_bare_name([name for name in names if name not in partner]) for names in (files, cases)
    )
    unclear = {}
    for bare in left_files.keys() & left_cases.keys():
        names, case_ids = left_files[bare], left_cases[bare]
        if len(names) == len(case_ids) == 1:
            partner[names[0]] = case_ids[0]
        else:
            unclear[bare] = (names, case_ids)
    return partner, dict(sorted(unclear.items()))


def _by_bare_name(names: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_bare(name), []).append(name)
    return found


def _bare(name: str) -> str:
    """A name without a word such as `_seg` behind it, its accents composed (macOS parts them)."""
    name = unicodedata.normalize("NFC", name)
    for mark in _MARKS:
        for separator in "_-":
            if name.lower().endswith(f"{separator}{mark}"):
                return name[: -len(mark) - 1]
    return name


def _either(bare: str, names: Sequence[str], case_ids: Sequence[str]) -> Problem:
    """The problem of files that could belong together in more than one way."""
    pred, ref = (
        f"{what}{'s' if len(of) > 1 else ''} {' and '.join(of)}"
        for what, of in (("prediction", names), ("reference", case_ids))
    )
    text = f"{pred} could be of {ref}: none is taken. Name the two that belong together alike."
    return Problem(bare, "dataset", text)


def _no_reference(name: str, path: Path, case: Case | None, left: Sequence[str]) -> Problem:
    if case is not None:
        expected = next((f.expected for f in case.missing if f.name == "label"), "a label")
        text = f"its label is missing, expected {expected}. Copy it there."
        return Problem(case.case_id, "missing-file", text)
    near = difflib.get_close_matches(name, left, n=1)
    cure = f"Is it {near[0]}? Rename it" if near else "Add the reference"
    text = f"{path.name} has no reference of that name. {cure}, or move the prediction away."
    return Problem(name, "missing-file", text)


def _nothing(predictions: Predictions, references: References, problems: list[Problem]) -> str:
    """Why there is no pair."""
    cases = [case.case_id for case in references.cases]
    if not predictions.files or not cases or set(predictions.files) & set(cases):
        return str(problems[0]) if problems else "--ref holds no reference."
    told = [", ".join(sorted(names)[:_SHOWN]) for names in (predictions.files, cases)]
    cure = (
        "Name each prediction as its case."
        if references.others is None
        else f"Are the references in {references.others}? Pass that as --ref."
    )
    return (
        f"no prediction has the name of a reference: predictions {told[0]} "
        f"({len(predictions.files)}), references {told[1]} ({len(cases)}). {cure}"
    )
