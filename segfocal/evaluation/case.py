"""A prediction and its reference from their files to numbers, or to what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from segfocal.data.defects import DefectError, Problem
from segfocal.data.grids import check_same_grid
from segfocal.data.header_defects import orientation_defects
from segfocal.data.nifti import is_stamped, read_label
from segfocal.data.nifti_header import Affine, Header, read_header
from segfocal.data.partial import annotated_targets, check_annotated
from segfocal.data.verify import encode_label
from segfocal.errors import UserError
from segfocal.evaluation.pairs import Pair
from segfocal.evaluation.probability_maps import ProbabilityMaps, measure_maps
from segfocal.labels import IGNORE_CLASS, ClassMap, LabelScheme
from segfocal.metrics.evaluation import Measures, RegionEvaluation, evaluate_classes
from segfocal.metrics.free_response import CANDIDATE_THRESHOLD
from segfocal.metrics.overlap import Mask
from segfocal.metrics.probability_evaluation import RegionCurves
from segfocal.metrics.voxel_size import voxel_volume

_SIDES = ("reference", "prediction")


@dataclass(frozen=True)
class EvaluationRules:
    """What a pair is read and measured by.

    Attributes:
        scheme: What the label values mean, in references and predictions.
        measures: What to measure.
        affine_tolerance_mm: Largest distance between corners that is taken for rounding.
        max_voxels: Voxels of a file above which its header is not believed.
        candidate_threshold: Probability above which voxels make up candidates for lesions.
    """

    scheme: LabelScheme
    measures: Measures
    affine_tolerance_mm: float
    max_voxels: int
    candidate_threshold: float = CANDIDATE_THRESHOLD

    @property
    def targets(self) -> dict[str, tuple[int, ...]]:
        """Classes of each class or region that is measured."""
        return dict(zip(self.scheme.target_names, self.scheme.target_classes, strict=True))


@dataclass
class CaseEvaluation:
    """What is known of a case.

    Attributes:
        case_id: The case.
        regions: Every class or region; empty where the case could not be evaluated.
        affine: Voxel indices to world coordinates in mm.
        voxel_mm3: Volume of a voxel.
        ignored_fraction: Share of the reference's voxels that nobody annotated.
        is_synthetic: Whether a file says that it is of the phantom.
        problems: Why it could not be evaluated.
        curves: Every class or region whose probabilities there are.
        curve_problems: Why others could not be measured; they cost their class's curves alone.
    """

    case_id: str
    regions: Mapping[str, RegionEvaluation] = field(default_factory=dict)
    affine: Affine = field(default_factory=lambda: np.eye(4))
    voxel_mm3: float = 1.0
    ignored_fraction: float = 0.0
    is_synthetic: bool = False
    problems: tuple[Problem, ...] = ()
    curves: Mapping[str, RegionCurves] = field(default_factory=dict)
    curve_problems: tuple[Problem, ...] = ()


def evaluate_pair(rules: EvaluationRules, pair: Pair) -> CaseEvaluation:
    """Reads both files and measures; what is wrong with them is told in `problems`."""
    try:
        return _evaluated(rules, pair)
    except DefectError as defect:
        return CaseEvaluation(pair.case.case_id, problems=(Problem.of(pair.case.case_id, defect),))


def crashed(pair: Pair) -> CaseEvaluation:
    """The result of a case whose process died, or for which memory ran out."""
    text = (
        "there was not enough memory to evaluate it, or the process that did so died. Try "
        "--workers 1."
    )
    problem = Problem(pair.case.case_id, "crashed", text)
    return CaseEvaluation(pair.case.case_id, problems=(problem,))


def _evaluated(rules: EvaluationRules, pair: Pair) -> CaseEvaluation:
    paths = (pair.reference, pair.prediction)
    headers = [read_header(path) for path in paths]
    if all(len(header.shape) == 3 for header in headers):
        _check_grids(headers[0], headers[1], rules.affine_tolerance_mm)
    maps = []
    for side, path in zip(_SIDES, paths, strict=True):
        values = read_label(path, max_voxels=rules.max_voxels).data
        maps.append(_encoded(side, values, rules.scheme))
    reference, predicted = maps
    known = reference != IGNORE_CLASS
    _check_classes(pair, reference, known, predicted, rules.scheme)
    annotated = annotated_targets(rules.scheme, pair.case.annotated)
    affine = headers[0].affine
    curves, curve_problems = _curves(rules, pair, headers[0], reference, annotated)
    return CaseEvaluation(
        pair.case.case_id,
        evaluate_classes(
            predicted,
            reference,
            rules.targets,
            affine[:3, :3],
            rules.measures,
            annotated=annotated,
        ),
        affine,
        voxel_volume(affine[:3, :3]),
        1 - float(known.mean()),
        is_synthetic=any(is_stamped(header.nifti) for header in headers),
        curves=curves,
        curve_problems=curve_problems,
    )


def _curves(
    rules: EvaluationRules,
    pair: Pair,
    header: Header,
    reference: ClassMap,
    annotated: Sequence[bool] | None,
) -> tuple[dict[str, RegionCurves], tuple[Problem, ...]]:
    """What the probabilities say of the classes that the case was annotated for."""
    if not pair.probabilities:
        return {}, ()
    maps = ProbabilityMaps(
        pair.probabilities,
        rules.scheme.output_names,
        header,
        affine_tolerance_mm=rules.affine_tolerance_mm,
        max_voxels=rules.max_voxels,
    )
    knows = annotated or [True] * len(rules.targets)
    targets = {
        name: members
        for (name, members), known in zip(rules.targets.items(), knows, strict=True)
        if known
    }
    return measure_maps(
        pair, maps, reference, targets, candidate_threshold=rules.candidate_threshold
    )


def _check_grids(reference: Header, prediction: Header, tolerance_mm: float) -> None:
    """Refuses two grids; where a file's own two forms disagree, that is told as the reason."""
    try:
        check_same_grid(
            _SIDES,
            (reference.shape, prediction.shape),
            (reference.affine, prediction.affine),
            tolerance_mm,
        )
    except DefectError as defect:
        why = [
            str(doubt)
            for name, header in zip(_SIDES, (reference, prediction), strict=True)
            for doubt in orientation_defects(header, name, tolerance_mm)
            if defect.kind == "affine" and doubt.kind in ("forms", "no-orientation")
        ]
        raise DefectError(" ".join([str(defect), *why]), defect.kind) from defect


def _encoded(side: str, values: ClassMap, scheme: LabelScheme) -> ClassMap:
    try:
        return encode_label(values, scheme)
    except DefectError as defect:
        raise DefectError(f"{side}: {defect}", defect.kind) from defect


def _check_classes(
    pair: Pair, reference: ClassMap, known: Mask, predicted: ClassMap, scheme: LabelScheme
) -> None:
    if not known.any():
        raise DefectError(
            "every voxel of the reference is ignored: nothing to evaluate. Take the case out, or "
            "name another loss.ignore_index.",
            "all-ignored",
        )
    undecided = int(np.count_nonzero(known & (predicted == IGNORE_CLASS)))
    if undecided:
        values = ",".join(map(str, scheme.ignore_values))
        raise DefectError(
            f"prediction holds the ignored value {values} in {undecided} voxels whose reference is "
            f"known. A prediction decides: write a class or 0 there.",
            "undeclared-label",
        )
    try:
        check_annotated(pair.case, reference, scheme)
    except UserError as error:
        raise DefectError(f"reference: {error}", "undeclared-label") from error
