"""Tiny NIfTI files for the tests, written by nibabel, which is the oracle of our reader."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

OBLIQUE = np.array(
    [
        [-1.9, 0.3, 0.1, 40.25],
        [0.2, 1.95, -0.4, -61.5],
        [0.15, 0.35, 2.95, 12.125],
        [0.0, 0.0, 0.0, 1.0],
    ]
)

TURNED = np.array(
    [
        [-0.9, -0.96, 1.92, 40.25],
        [-1.2, 0.72, -1.44, -61.5],
        [0.0, 1.6, 1.8, 12.125],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""1.5 x 2 x 3 mm, turned about two axes, without the shear that only an sform can tell."""


SHEARED = np.array(
    [
        [1.0, 0.8, 0.0, -20.0],
        [0.0, 2.0, 0.5, 30.0],
        [0.0, 0.0, 3.0, -40.0],
        [0.0, 0.0, 0.0, 1.0],
    ]
)
"""A voxel of 6 mm3, whose edges of 1, 2.154 and 3.041 mm would make 6.551."""


def save(path, data, affine=None, *, codes=(1, 1), dtype=None, scaling=None, kind=nib.Nifti1Image):
    """Writes `data` with both form codes set; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = kind(np.asarray(data), np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine)
    image.header.set_qform(image.affine, codes[0], strip_shears=True)
    image.header.set_sform(image.affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    if dtype is not None:
        image.header.set_data_dtype(dtype)
    if scaling is not None:
        image.header.set_slope_inter(*scaling)
    nib.save(image, path)
    return path


def write_json(path: Path, plain):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plain))
    return path


def image_of(shape, seed=0):
    """int16 noise."""
    return np.random.default_rng(seed).integers(-500, 3000, shape).astype(np.int16)


def label_of(shape, values=(0, 1), seed=0):
    """uint8 labels that hold every value."""
    drawn = np.random.default_rng(seed).choice(values, shape).astype(np.uint8)
    drawn.flat[: len(values)] = values
    return drawn


def msd(root, *, cases=("c1", "c2", "c3"), channels=("FLAIR", "T1w"), values=(0, 1), **override):
    """An MSD data set; `override` replaces keys of its dataset.json (None removes one)."""
    shape = (6, 5, 4, len(channels)) if len(channels) > 1 else (6, 5, 4)
    for seed, case in enumerate(cases):
        save(root / "imagesTr" / f"{case}.nii.gz", image_of(shape, seed))
        save(root / "labelsTr" / f"{case}.nii.gz", label_of(shape[:3], values, seed))
    plain = {
        "name": "Toy",
        "tensorImageSize": "4D",
        "modality": {str(i): name for i, name in enumerate(channels)},
        "labels": {str(v): f"class{v}" if v else "background" for v in values},
        "numTraining": len(cases),
        "training": [
            {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
            for case in cases
        ],
        "test": [],
    } | override
    write_json(root / "dataset.json", {k: v for k, v in plain.items() if v is not None})
    return root


def nnunet(root, *, cases=("c1", "c2"), channels=("CT", "PET"), **override):
    """An nnU-Net v2 data set; `override` replaces keys of its dataset.json."""
    for seed, case in enumerate(cases):
        for i in range(len(channels)):
            save(root / "imagesTr" / f"{case}_{i:04d}.nii.gz", image_of((6, 5, 4), 10 * seed + i))
        save(root / "labelsTr" / f"{case}.nii.gz", label_of((6, 5, 4), seed=seed))
    plain = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {"background": 0, "tumour": 1},
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
    } | override
    write_json(root / "dataset.json", {k: v for k, v in plain.items() if v is not None})
    return root
