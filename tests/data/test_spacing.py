import pytest

from segfocal.data.spacing import is_outside, range_text, spacing_range

TRAINED = spacing_range([(1.0, 1.0, 5.0), (0.8, 1.0, 2.0)])


@pytest.mark.parametrize(("axis", "low", "high"), [(0, 0.8, 1.0), (1, 1.0, 1.0), (2, 2.0, 5.0)])
def test_a_voxel_may_be_a_quarter_longer_than_any_trained_on_or_any_of_them_than_it(
    axis, low, high
):
    for size, outside in [
        (low / 1.26, True), (low / 1.24, False), (high * 1.24, False), (high * 1.26, True)
    ]:  # fmt: skip
        voxel = [0.9, 1.0, 3.0]
        voxel[axis] = size
        assert is_outside(tuple(voxel), TRAINED) == outside


def test_one_size_is_told_once():
    assert range_text(TRAINED) == "0.8x1x2 to 1x1x5 mm"
    assert range_text(spacing_range([(1.0, 1.0, 2.5)])) == "1x1x2.5 mm"
