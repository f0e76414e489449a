"""Whole-volume validation on the source grid, the numbers that metrics.csv and best.pt go by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from segfocal.inference.predictor import Predictor
from segfocal.labels import ClassMap, LabelScheme
from segfocal.metrics.case_score import CaseScore, region_masks, score_case


@dataclass(frozen=True)
class Sample:
    """A validated case on the preprocessed (RAS) grid, for a picture.

    Attributes:
        case_id: Its name.
        image: Scaled intensities `(C, *S)`.
        reference: Class indices `(*S)`.
        prediction: Class indices `(*S)`.
        zooms_mm: Voxel size.
        lesion_voxels: How many voxels the reference has that are not background, on its own grid.
    """

    case_id: str
    image: npt.NDArray[np.float32]
    reference: ClassMap
    prediction: ClassMap
    zooms_mm: tuple[float, ...]
    lesion_voxels: int


def validate(
    predictor: Predictor,
    cases: Iterable[Mapping[str, Any]],
    scheme: LabelScheme,
    on_case: Callable[[], None] = lambda: None,
    *,
    annotated: Mapping[str, Sequence[bool]] | None = None,
) -> tuple[list[CaseScore], Sample | None]:
    """Predicts every case and scores it on its own grid.

    Args:
        predictor: Network and window.
        cases: Preprocessed cases with `image`, `label`, `reference`, `voxel_mm3`, `case_id`.
        scheme: What classes mean.
        on_case: Called after each case.
        annotated: Case id to whether it was annotated for each target; None for all. What nobody
            looked for is not scored.

    Returns:
        A score per case, and the case with the most lesion voxels for a picture (None of none).
    """
    scores: list[CaseScore] = []
    sample: Sample | None = None
    for case in cases:
        predicted = predictor.segment(case["image"])
        reference: ClassMap = case["reference"]
        scores.append(
            score_case(
                case["case_id"],
                region_masks(predicted.on_source, scheme.target_classes),
                reference,
                scheme.target_names,
                scheme.target_classes,
                voxel_mm3=case["voxel_mm3"],
                annotated=None if annotated is None else annotated[case["case_id"]],
            )
        )
        lesion = int(np.count_nonzero((reference > 0) & (reference < scheme.num_classes)))
        if sample is None or lesion > sample.lesion_voxels:
            sample = _sample(case, predicted.on_image, lesion)
        on_case()
    return scores, sample


def _sample(case: Mapping[str, Any], prediction: ClassMap, lesion_voxels: int) -> Sample:
    image = case["image"]
    zooms = image.affine[:3, :3].double().norm(dim=0)
    return Sample(
        case["case_id"],
        image.as_tensor().numpy(),
        case["label"].as_tensor()[0].numpy(),
        prediction,
        tuple(float(z) for z in zooms),
        lesion_voxels,
    )
