"""Writes the phantom as a data set in MSD layout: dataset.json, imagesTr, labelsTr, imagesTs."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from segfocal.data.phantom.acquisition import CHANNELS
from segfocal.data.phantom.case import Traits, build_case, case_generator
from segfocal.data.phantom.stamp import STAMP
from segfocal.errors import UserError

SMALLEST = (24, 28, 20)


def write_phantom(
    root: Path,
    *,
    num_cases: int = 24,
    num_test: int = 2,
    seed: int = 0,
    shape: tuple[int, int, int] = (64, 76, 56),
    num_threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write synthetic brain-tumour cases as NIfTI files in MSD layout.

    Every file says that it is a phantom. The labels are those of MSD Task01 (preset
    `msd-task01`) and 255 where nobody annotated. A case depends on (seed, its index) alone,
    never on how many there are; its files are the same byte for byte each time.

    Args:
        root: Folder to write; made if need be. An earlier phantom in it is replaced.
        num_cases: Labelled cases (`PHANTOM_001` ...).
        num_test: Cases in imagesTs without a label (`PHANTOM_TEST_001` ...).
        seed: Another seed gives other cases.
        shape: Voxels of a case along right, anterior, superior; the voxel size follows, so that
            the brain fills it. One case in each set has thick slices and another shape.
        num_threads: Cases drawn at a time.
        progress: Called with (cases written, cases in all) after each case.

    Raises:
        UserError: If `root` holds something that is not a phantom, or the shape is too small.
    """
    if num_cases < 1 or num_test < 0:
        raise UserError(f"phantom: num_cases must be at least 1, got {num_cases}.")
    if any(size < least for size, least in zip(shape, SMALLEST, strict=True)):
        raise UserError(f"phantom: shape must be at least {SMALLEST}, got {tuple(shape)}.")
    _clear(root)
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    training = [f"PHANTOM_{index + 1:03d}" for index in range(num_cases)]
    test = [f"PHANTOM_TEST_{index + 1:03d}" for index in range(num_test)]

    def write(position: int) -> None:
        labelled = position < num_cases
        name = training[position] if labelled else test[position - num_cases]
        traits = Traits.of(position if labelled else position - num_cases)
        case = build_case(traits, case_generator(seed, name), shape)
        folder = "imagesTr" if labelled else "imagesTs"
        _write_nifti(root / folder / f"{name}.nii.gz", case.image, case.affine)
        if labelled:
            _write_nifti(root / "labelsTr" / f"{name}.nii.gz", case.label, case.affine)

    total = num_cases + num_test
    with ThreadPoolExecutor(max_workers=num_threads) as pool:
        for done, _ in enumerate(pool.map(write, range(total)), start=1):
            if progress is not None:
                progress(done, total)
    (root / "dataset.json").write_text(
        json.dumps(_description(training, test, seed), indent=1) + "\n", encoding="utf-8"
    )


def _clear(root: Path) -> None:
    """Remove an earlier phantom's files; refuse a folder that holds anything else."""
    if not root.exists():
        return
    if not root.is_dir():
        raise UserError(f"phantom: {root} is a file. Pass a folder.")
    present = sorted(
        path for path in root.rglob("*") if path.is_file() and not path.name.startswith("PHANTOM_")
    )
    for path in present:
        if path != root / "dataset.json" or not _is_phantom(path):
            raise UserError(
                f"phantom: {root} holds {path.relative_to(root)}, which is not the phantom's. "
                f"Pass an empty folder."
            )
        path.unlink()
    for path in root.rglob("PHANTOM_*.nii.gz"):
        path.unlink()


def _is_phantom(path: Path) -> bool:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(description, dict) and description.get("synthetic") is True


def _write_nifti(path: Path, voxels: npt.NDArray[Any], affine: npt.NDArray[np.float64]) -> None:
    image = nib.Nifti1Image(voxels, affine)
    image.header["descrip"] = STAMP.encode("ascii")
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))


def _description(training: list[str], test: list[str], seed: int) -> dict[str, Any]:
    return {
        "name": "PHANTOM brain tumours",
        "description": STAMP,
        "synthetic": True,
        "reference": f"segfocal write_phantom, seed {seed}",
        "licence": "Apache-2.0",
        "release": "1.0",
        "tensorImageSize": "4D",
        "modality": {str(index): name for index, name in enumerate(CHANNELS)},
        "labels": {
            "0": "background",
            "1": "oedema",
            "2": "non-enhancing",
            "3": "enhancing",
            "255": "ignore",
        },
        "numTraining": len(training),
        "numTest": len(test),
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in training
        ],
        "test": [f"./imagesTs/{name}.nii.gz" for name in test],
    }
