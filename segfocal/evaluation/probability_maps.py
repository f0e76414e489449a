"""Files of probabilities to measures, one map in memory at a time; or what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from segfocal.data.defects import DefectError, Problem
from segfocal.data.grids import check_same_grid
from segfocal.data.nifti import channels_first
from segfocal.data.nifti_header import Header, read_header, stored_scaling, times
from segfocal.data.nifti_voxels import Stored, read_stored
from segfocal.evaluation.pairs import Pair
from segfocal.labels import IGNORE_CLASS, ClassMap
from segfocal.metrics.case_score import region_masks
from segfocal.metrics.overlap import Mask
from segfocal.metrics.probability_evaluation import RegionCurves, evaluate_probabilities

Map = npt.NDArray[np.float32]

ROUNDING = 1e-3
"""Interpolation and files of few digits overshoot 0 and 1 by this much; it is cut off."""


class ProbabilityMaps:
    """The maps of one case, read in turn.

    Args:
        paths: Class or region to its file.
        outputs: Name of each map of a file that holds all of them, in their order.
        like: Header of the reference.
        affine_tolerance_mm: Largest distance between corners that is taken for rounding.
        max_voxels: Voxels of a file above which its header is not believed.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        outputs: Sequence[str],
        like: Header,
        *,
        affine_tolerance_mm: float,
        max_voxels: int,
    ) -> None:
        self._paths = paths
        self._outputs = tuple(outputs)
        self._like = like
        self._tolerance_mm = affine_tolerance_mm
        self._max_voxels = max_voxels
        self._held: Stored | None = None

    def read(self, target: str, known: Mask) -> Map:
        """The probabilities of one class or region.

        Args:
            target: Its name.
            known: Voxels whose reference is known: elsewhere anything may stand.

        Returns:
            float32 `(X, Y, Z)`, C-contiguous, 0 to 1 where known.

        Raises:
            DefectError: If the file is missing or damaged, not on the reference's grid, holds
                another number of maps than there are outputs, or what is no probability.
        """
        path = self._paths[target]
        if self._held is None or self._held.header.path != path:
            self._held = None
            self._check(read_header(path))
            self._held = read_stored(path, max_voxels=self._max_voxels)
        header = self._held.header
        maps = channels_first(header, self._held.array, None)
        chosen = maps[self._outputs.index(target) if len(maps) > 1 else 0]
        scaling = stored_scaling(header)
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.array(chosen, dtype=np.float32, order="C")
            if scaling is not None:
                values *= np.float32(scaling[0])
                values += np.float32(scaling[1])
        if len(maps) == 1:
            self._held = None
        _check_values(path, values, known, is_integer=header.dtype.kind in "iu")
        return np.clip(values, 0, 1, out=values)

    def _check(self, header: Header) -> None:
        name = header.path.name
        num_maps = header.shape[3] if len(header.shape) == 4 else 1
        # a name of its own says which output a single map is of
        is_shared = sum(path == header.path for path in self._paths.values()) > 1
        if len(header.shape) not in (3, 4):
            raise DefectError(
                f"{name}: expected a 3-D map of probabilities, or 4-D with one for each output, "
                f"got {times(header.shape)}.",
                "shape",
            )
        if num_maps != len(self._outputs) and (num_maps > 1 or is_shared):
            raise DefectError(
                f"{name}: holds {num_maps} map{'' if num_maps == 1 else 's'} "
                f"({times(header.shape)}), expected {len(self._outputs)}, one for each output "
                f"({', '.join(self._outputs)}). Write all of them along the fourth axis, or a file "
                f"for each.",
                "channels",
            )
        check_same_grid(
            ("reference", name),
            (self._like.shape, header.shape[:3]),
            (self._like.affine, header.affine),
            self._tolerance_mm,
        )


def measure_maps(
    pair: Pair,
    maps: ProbabilityMaps,
    reference: ClassMap,
    targets: Mapping[str, Sequence[int]],
    *,
    candidate_threshold: float,
) -> tuple[dict[str, RegionCurves], tuple[Problem, ...]]:
    """Measures every class or region whose probabilities there are.

    Args:
        pair: The case.
        maps: Its maps.
        reference: uint8 class indices `(X, Y, Z)`, `IGNORE_CLASS` where nobody annotated.
        targets: Name to class indices, of each class or region that the case was annotated for.
        candidate_threshold: Probability above which voxels make up candidates.

    Returns:
        The measures, and why some could not be had.
    """
    found, problems = {}, []
    known = reference != IGNORE_CLASS
    valid = None if known.all() else known
    for name, members in _available(pair, targets):
        try:
            probs = maps.read(name, known)
        except DefectError as defect:
            problems.append(Problem.of(pair.case.case_id, defect))
            continue
        mask = region_masks(reference, [members])[0]
        found[name] = evaluate_probabilities(
            probs, mask, valid, candidate_threshold=candidate_threshold
        )
    # of a file that several classes share, one line says enough
    return found, tuple(dict.fromkeys(problems))


def _available(
    pair: Pair, targets: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, Sequence[int]]]:
    for name, members in targets.items():
        if name in pair.probabilities:
            yield name, members


def _check_values(path: Path, values: Map, known: Mask, *, is_integer: bool) -> None:
    low = float(values.min(where=known, initial=np.inf))
    high = float(values.max(where=known, initial=-np.inf))
    if not np.isfinite([low, high]).all():
        num_bad = int(np.count_nonzero(known & ~np.isfinite(values)))
        raise DefectError(
            f"{path.name}: {num_bad} of {np.count_nonzero(known)} voxels are NaN or infinite. "
            f"Predict the case again, or pass --no-probabilities.",
            "not-finite",
        )
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return
    cure = (
        f"Set scl_slope to 1/{high:g}, or to what full scale is"
        if is_integer and low >= 0
        else "Write them after softmax or sigmoid"
    )
    raise DefectError(
        f"{path.name}: holds {low:.4g} to {high:.4g}, expected probabilities from 0 to 1. {cure}.",
        "not-probability",
    )
