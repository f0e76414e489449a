"""Which files hold the probabilities of a case, class by class."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segfocal.data.defects import Problem
from segfocal.data.layouts.folder import volume_files
from segfocal.data.layouts.found import READABLE
from segfocal.data.nifti_header import case_stem
from segfocal.data.partial import annotated_targets
from segfocal.errors import UserError
from segfocal.evaluation.label_files import by_name
from segfocal.evaluation.pairs import Pair
from segfocal.inference.probability_files import (
    PROBABILITIES,
    probability_stem,
    probability_stems,
)
from segfocal.labels import LabelScheme

_SHOWN = 3


@dataclass(frozen=True)
class ProbabilityFolder:
    """Files of probabilities.

    Attributes:
        path: The folder.
        files: By name without its ending.
        problems: Names that two files have.
        is_named: Whether somebody asked for this very folder.
    """

    path: Path
    files: Mapping[str, Path]
    problems: tuple[Problem, ...] = ()
    is_named: bool = False


def find_probabilities(pred: Path, given: Path | None) -> ProbabilityFolder | None:
    """The folder that `--probabilities` names, or the one beside the predictions, if there is one.

    Args:
        pred: What `--pred` names.
        given: What `--probabilities` names.

    Raises:
        UserError: If `given` is no folder, or holds no volume.
    """
    folder = given or (pred if pred.is_dir() else pred.parent) / PROBABILITIES
    if given is None and not folder.is_dir():
        return None
    if not folder.is_dir():
        raise UserError(
            f"--probabilities {folder} is not a folder. Pass the one that segfocal-predict "
            f"--probabilities wrote, or --no-probabilities."
        )
    files, problems = by_name(volume_files(folder))
    if given is not None and not files and not problems:
        raise UserError(
            f"--probabilities {folder}: holds no volume ({', '.join(READABLE)}). Pass the folder "
            f"that holds CASE_CLASS.nii.gz."
        )
    return ProbabilityFolder(folder, files, tuple(problems), is_named=given is not None)


def with_probabilities(
    pairs: Sequence[Pair], folder: ProbabilityFolder, scheme: LabelScheme
) -> tuple[list[Pair], list[Problem]]:
    """The pairs with the files of their probabilities, and a problem for each that has none.

    `CASE_CLASS.nii.gz` as segfocal-predict writes it, or `CASE.nii.gz` with a map for each output
    along a fourth axis (or the one map of the one class).

    Args:
        pairs: The pairs.
        folder: The files.
        scheme: What is measured. Of what a case was not annotated for, it needs no file.

    Raises:
        UserError: If the folder was named and holds nothing of any case.
    """
    equipped, problems = [], []
    for pair in pairs:
        annotated = annotated_targets(scheme, pair.case.annotated)
        targets = list(itertools.compress(scheme.target_names, annotated))
        case_ids = dict.fromkeys((case_stem(pair.prediction), pair.case.case_id))
        found = {}
        for target in targets:
            stems = [
                stem
                for case_id in case_ids
                for stem in probability_stems(case_id, target, scheme.output_names)
            ]
            paths = [folder.files[stem] for stem in (*stems, *case_ids) if stem in folder.files]
            # a label map of 0 and 1 would pass for probabilities of perfect confidence
            paths = [path for path in paths if path.resolve() != pair.prediction.resolve()]
            if paths:
                found[target] = paths[0]
        equipped.append(dataclasses.replace(pair, probabilities=found))
        lacking = [target for target in targets if target not in found]
        if lacking:
            problems.append(_missing(pair, folder, lacking, scheme, is_all=not found))
    if folder.is_named and pairs and not any(pair.probabilities for pair in equipped):
        held = ", ".join(sorted(path.name for path in folder.files.values())[:_SHOWN])
        names = scheme.output_names
        stem = probability_stem(case_stem(pairs[0].prediction), scheme.target_names[0], names)
        raise UserError(
            f"--probabilities {folder.path}: holds nothing of any case that is evaluated. Expected "
            f"files such as {stem}.nii.gz, found {held} ({len(folder.files)})."
        )
    return equipped, problems


def _missing(
    pair: Pair, folder: ProbabilityFolder, lacking: list[str], scheme: LabelScheme, *, is_all: bool
) -> Problem:
    what = "" if is_all else f" of {', '.join(lacking)}"
    stem = probability_stem(case_stem(pair.prediction), lacking[0], scheme.output_names)
    of_regions = (
        " of a network with these regions (those of classes are not added up)"
        if scheme.regions
        else ""
    )
    case_ids = (case_stem(pair.prediction), pair.case.case_id)
    others = sorted(s for s in folder.files if s.startswith(tuple(f"{i}_" for i in case_ids)))
    run = ""
    if is_all and others:
        do = "do" if len(others) > 1 else "does"
        run = (
            f" {', '.join(others[:_SHOWN])} {do}: to measure what their run was trained on, pass "
            f"--config RUN/config.yaml."
        )
    return Problem(
        pair.case.case_id,
        "missing-file",
        f"has no probabilities{what}: {folder.path / stem}.nii.gz does not exist.{run} Write it "
        f"with segfocal-predict --probabilities{of_regions}, or pass --no-probabilities.",
    )
