"""A case's files to an image and a label tensor that know their affine."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import Transform

from segfocal.data.cases import Case
from segfocal.data.nifti_header import MAX_VOXELS, case_stem
from segfocal.data.verify import load_case
from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.metrics.voxel_size import voxel_volume


class LoadCased(Transform):
    """Reads and verifies `data["case"]`, and puts `image`, `label` and what belongs to them there.

    Without a `case`, `image` and `label` are paths, as in MONAI's data lists: `image` that of one
    file, or a list with one file per channel; `label`, if there is one, that of one file. The case
    is then named after its first file, or by `case_id`.

    `image` is float32 `(C, X, Y, Z)`; `label` uint8 class indices `(1, X, Y, Z)` with
    `IGNORE_CLASS` where ignored, absent for a case without a label. Both are MetaTensors with the
    file's affine, so that MONAI's spatial transforms and `Invertd` apply. `reference` is the label
    as a plain array `(X, Y, Z)`, which no later transform moves: scores are taken on it. `case_id`,
    `zooms_mm` and `voxel_mm3` (less than their product where the axes are sheared) are plain
    values, and `case` itself is taken out, so that MONAI's caches store the result and its loaders
    batch it. `meta["filename_or_obj"]` is the first image file, or the
    label file: `SaveImaged` names after it what it writes.

    Args:
        scheme: What the label values mean.
        channels: Names of all channels in the files, for messages.
        select: Which of them, in which order; None is all.
        channel_dim: Axis of the channels in a 4-D file; None is the fourth.
        affine_tolerance_mm: Largest distance between corners that is taken for rounding.
        resample_channels: Bring channels on other grids onto that of the first.
        max_voxels: Voxels of a file above which its header is not believed.

    Raises:
        UserError: On call, for every defect of a case that `data.verify` knows.
    """

    def __init__(
        self,
        scheme: LabelScheme,
        channels: Sequence[str],
        *,
        select: Sequence[int] | None = None,
        channel_dim: int | None = None,
        affine_tolerance_mm: float = 0.1,
        resample_channels: bool = False,
        max_voxels: int = MAX_VOXELS,
    ) -> None:
        self.scheme = scheme
        self.channels = tuple(channels)
        self.select = tuple(select) if select is not None else None
        self.channel_dim = channel_dim
        self.affine_tolerance_mm = affine_tolerance_mm
        self.resample_channels = resample_channels
        self.max_voxels = max_voxels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Reads the files of `data["case"]`, or those that `image` and `label` name."""
        out = dict(data)
        case: Case = out.pop("case") if "case" in out else _case_of(out)
        loaded = load_case(
            case,
            self.scheme,
            self.channels,
            select=self.select,
            channel_dim=self.channel_dim,
            affine_tolerance_mm=self.affine_tolerance_mm,
            resample_channels=self.resample_channels,
            max_voxels=self.max_voxels,
        )
        affine = torch.from_numpy(loaded.affine)
        out["case_id"] = case.case_id
        out["zooms_mm"] = loaded.zooms
        out["voxel_mm3"] = voxel_volume(loaded.affine[:3, :3])
        out["image"] = _volume(loaded.image, affine, case.images[0])
        if loaded.classes is not None:
            assert case.label is not None
            out["reference"] = loaded.classes
            out["label"] = _volume(loaded.classes[None], affine, case.label)
        return out


def _case_of(data: Mapping[Hashable, Any]) -> Case:
    """The case that paths stand for.

    Raises:
        UserError: If `image` is neither a path nor a list of paths.
    """
    named = data.get("image")
    images = [named] if isinstance(named, (str, Path)) else named
    if not isinstance(images, (list, tuple)) or not images:
        raise UserError(
            f'expected a "case", or an "image" that is a path or a list of paths (one per '
            f"channel), got {named!r}."
        )
    paths = tuple(Path(image) for image in images)
    label = data.get("label")
    stem = case_stem(paths[0])
    case_id = data.get("case_id", stem.removesuffix("_0000") if len(paths) > 1 else stem)
    return Case(case_id, paths, None if label is None else Path(label))


def _volume(array: npt.NDArray[Any], affine: torch.Tensor, path: Path) -> MetaTensor:
    return MetaTensor(torch.from_numpy(array), affine=affine, meta={"filename_or_obj": str(path)})
