import pytest

from segfocal.metrics.voxel_size import voxel_volume
from tests.data.nifti_files import SHEARED


def test_a_voxels_volume_counts_the_shear():
    assert voxel_volume(SHEARED[:3, :3]) == pytest.approx(6, rel=1e-12)
    left_handed = SHEARED[[1, 0, 2], :3]
    assert voxel_volume(left_handed) == pytest.approx(6, rel=1e-12)
