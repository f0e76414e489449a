"""Slabs brought back to the file's spacing, against MONAI's inverse of the whole volume."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from segfocal.config.schema import DataConfig
from segfocal.data.cases import Case
from segfocal.inference.sliding_window import Slab
from segfocal.inference.source_grid import resampled, resampling_of
from segfocal.labels import LabelScheme
from segfocal.transforms.pipelines import preprocessing

SCHEME = LabelScheme(("background", "a"), (0, 1))
TURNED = np.array([[0, 0, 1.5, 5], [-1.0, 0, 0, -7], [0, 2.0, 0, 3], [0, 0, 0, 1]])
SHEARED = np.eye(4)
SHEARED[0, 2] = 0.3


def rotated(affine, degrees):
    turn = np.radians(degrees)
    rotation = np.eye(4)
    rotation[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    return rotation @ affine


def prepared(tmp_path, affine, spacing, shape=(20, 17, 13)):
    path = tmp_path / "x.nii.gz"
    values = np.random.default_rng(0).random(shape).astype(np.float32)
    nib.save(nib.Nifti1Image(values, affine), path)
    data = DataConfig(root="x", normalize="none", spacing_mm=spacing)
    pipeline = preprocessing(data, SCHEME, ("c",), ("c",))
    return pipeline, pipeline(Case("x", (path,), None))["image"]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 3.1, 1.4), (2.5, 2.5, 2.5)])
@pytest.mark.parametrize(
    "affine",
    [np.diag([1.5, 1.0, 2.0, 1.0]), TURNED, rotated(TURNED, 20.0)],
    ids=["straight", "turned", "rotated"],
)
def test_the_same_as_monais_inverse(tmp_path, affine, spacing, axis):
    pipeline, image = prepared(tmp_path, affine, spacing)
    values = torch.rand(3, *image.shape[1:], generator=torch.Generator().manual_seed(2))
    resampling = resampling_of(image)
    assert resampling is not None
    assert not resampling.is_sheared
    starts = range(0, values.shape[axis + 1], 4)
    slabs = [Slab(at, part) for at, part in zip(starts, values.split(4, axis + 1), strict=True)]
    back = list(resampled(slabs, resampling, axis=axis, most_planes=3))
    assert max(slab.values.shape[axis + 1] for slab in back) <= 3
    assert [slab.start for slab in back] == list(
        np.cumsum([0] + [slab.values.shape[axis + 1] for slab in back[:-1]])
    )
    unresampled = MetaTensor(
        torch.cat([slab.values for slab in back], axis + 1),
        affine=resampling.affine,
        applied_operations=list(image.applied_operations[:1]),
    )
    ours = pipeline.to_file_axes(unresampled)
    operations = list(image.applied_operations)
    theirs = pipeline.to_source(
        MetaTensor(values, affine=image.affine, applied_operations=operations)
    )
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours.affine, theirs.affine)
    torch.testing.assert_close(ours.as_tensor(), theirs.as_tensor(), rtol=0, atol=1e-5)


def test_voxels_of_another_size_are_resampled_though_as_many_fill_the_volume(tmp_path):
    _, image = prepared(tmp_path, np.eye(4), (1.02, 1.02, 1.02))
    assert image.shape[1:] == (20, 17, 13)
    resampling = resampling_of(image)
    for length, origin_mm, positions in zip(
        (20, 17, 13), image.affine[:3, 3], resampling.positions, strict=True
    ):
        expected = (torch.arange(length) - origin_mm) / 1.02  # voxel i of the file lies at i mm
        torch.testing.assert_close(positions, expected.double(), rtol=0, atol=1e-6)


def test_what_was_not_resampled_says_so(tmp_path):
    _, image = prepared(tmp_path, TURNED, None)
    assert resampling_of(image) is None
    _, image = prepared(tmp_path, np.eye(4), (1.0, 1.0, 1.0))
    assert resampling_of(image) is None


def test_sheared_axes_are_told(tmp_path):
    _, image = prepared(tmp_path, SHEARED, (1.0, 2.0, 1.0))
    assert resampling_of(image).is_sheared
