"""A checkpoint and a folder of images to label files: what segfocal-predict runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segfocal.data.cases import Case
from segfocal.data.layouts import list_inputs
from segfocal.data.nifti import write_label
from segfocal.data.nifti_header import MAX_VOXELS
from segfocal.data.verify import verify_headers
from segfocal.errors import UserError
from segfocal.labels import ClassMap, LabelScheme


@dataclass(frozen=True)
class PredictRequest:
    """The arguments of segfocal-predict.

    Attributes:
        checkpoint: `best.pt` or `last.pt` of a run.
        source: Data set, folder or file with the images.
        output: Folder for the labels.
        tta: `none` or `flips`; None is what the run declares.
        device: auto, cpu, cuda or cuda:N.
        go_on: Leave what `output` already holds; else that is the user's mistake.
        quiet: Print nothing.
    """

    checkpoint: Path
    source: Path
    output: Path
    tta: str | None = None
    device: str = "auto"
    go_on: bool = False
    quiet: bool = False


def predict_cases(request: PredictRequest) -> list[Path]:
    """Segments every case of `source`; one label file each, on the source's own grid.

    Returns:
        The files, written now or found with `go_on`.

    Raises:
        UserError: For a missing or damaged checkpoint or image, channels that do not fit, an
            output that would be overwritten. All headers are checked before the first case, so
            that only damaged voxels can stop it half way.
    """
    if not request.checkpoint.is_file():
        raise UserError(
            f"--ckpt {request.checkpoint} does not exist. A run writes best.pt in its folder."
        )
    if not request.source.exists():
        raise UserError(f"-i {request.source} does not exist.")
    if request.output.exists() and not request.output.is_dir():
        raise UserError(f"-o {request.output} is a file; it must be a folder.")
    from segfocal.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(request.checkpoint)
    data = checkpoint.config["data"]
    cases = list_inputs(
        request.source, checkpoint.file_channels, image_pattern=data.get("image_pattern")
    )
    targets = [request.output / f"{case.case_id}.nii.gz" for case in cases]
    _refuse_overwriting(cases, targets, go_on=request.go_on)
    for case in cases:
        verify_headers(
            case,
            checkpoint.file_channels,
            channel_dim=data["channel_dim"],
            affine_tolerance_mm=data["affine_tolerance_mm"],
            resample_channels=data.get("resample_channels", False),
            max_voxels=data.get("max_voxels", MAX_VOXELS),
        )
    from segfocal.inference.predictor import Predictor

    scheme = checkpoint.scheme
    predictor = Predictor.from_checkpoint(checkpoint, device=request.device, tta=request.tta)
    request.output.mkdir(parents=True, exist_ok=True)
    for number, (case, target) in enumerate(zip(cases, targets, strict=True), 1):
        if target.exists():
            continue
        began = time.monotonic()
        prepared = predictor.preprocessing(case)
        classes = predictor.predict(prepared["image"])
        write_label(target, scheme.decode(classes), like=case.images[0])
        if not request.quiet:
            volumes = _volumes(classes, prepared["zooms_mm"], scheme)
            elapsed_s = time.monotonic() - began
            sys.stdout.write(
                f"{number}/{len(cases)} {case.case_id} {elapsed_s:.1f} s · {volumes}\n"
            )
            sys.stdout.flush()
    if not request.quiet:
        sys.stdout.write(f"{len(cases)} label files in {request.output}\n")
        if checkpoint.synthetic:
            sys.stdout.write("Trained on a SYNTHETIC PHANTOM - not clinical evidence\n")
    return targets


def _refuse_overwriting(cases: Sequence[Case], targets: Sequence[Path], *, go_on: bool) -> None:
    for case, target in zip(cases, targets, strict=True):
        if any(target.exists() and target.samefile(image) for image in case.images):
            raise UserError(f"-o would overwrite the image {case.images[0]}. Use another folder.")
    there = [target for target in targets if target.exists()]
    if there and not go_on:
        raise UserError(
            f"{there[0]} exists already ({len(there)} of {len(targets)} do). Pass --continue to "
            f"predict only what is missing, or -o for another folder."
        )


def _volumes(classes: ClassMap, zooms_mm: Sequence[float], scheme: LabelScheme) -> str:
    """Predicted millilitres of each target, for the eye."""
    voxel_ml = float(np.prod(zooms_mm)) / 1000
    return " ".join(
        f"{name} {np.isin(classes, members).sum() * voxel_ml:.1f} ml"
        for name, members in zip(scheme.target_names, scheme.target_classes, strict=True)
    )
