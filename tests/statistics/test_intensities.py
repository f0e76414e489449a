import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segfocal.statistics.intensities import PERCENTILES, measure_intensities

SCALINGS = [None, (2.0, 0.0), (-0.5, 3.0), (1.0, -7.0)]


def oracle(stored, scaling):
    values = stored.astype(np.float64)
    if scaling is not None:
        values = values * scaling[0] + scaling[1]
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    finite = values[np.isfinite(values)]
    other = finite[finite != 0]
    return (
        values.size - finite.size,
        finite.min(),
        finite.max(),
        (finite == 0).sum() / values.size,
        np.percentile(other, PERCENTILES, method="inverted_cdf") if other.size else None,
    )


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        st.sampled_from(["u1", "i1", "i2", "u2", "i4", "f4", "f8"]),
        hnp.array_shapes(max_dims=3, max_side=7),
    ),
    st.sampled_from(SCALINGS),
)
def test_numbers_are_numpys(stored, scaling):
    finite = np.isfinite(stored.astype(np.float64))
    if not (np.abs(stored.astype(np.float64)[finite]) < 1e37).all() or not finite.any():
        return
    bad, low, high, zeros, percentiles = oracle(stored, scaling)
    found = measure_intensities(stored, scaling)
    assert found.num_voxels == stored.size
    assert found.num_not_finite == bad
    assert found.minimum == pytest.approx(low, rel=1e-6)
    assert found.maximum == pytest.approx(high, rel=1e-6)
    assert found.zero_fraction == pytest.approx(zeros)
    if percentiles is None:
        assert all(math.isnan(value) for value in found.percentiles)
    else:
        assert found.percentiles == pytest.approx(tuple(percentiles), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_counting_and_sorting_agree_on_a_volume(dtype):
    volume = np.random.default_rng(0).integers(-1000, 3000, (40, 30, 20)).astype(np.int16)
    volume[:10] = 0
    assert measure_intensities(volume.astype(dtype)) == measure_intensities(volume)


def test_a_volume_without_a_finite_voxel_has_no_numbers():
    found = measure_intensities(np.full((3, 3), np.nan, np.float32))
    assert found.num_not_finite == 9
    assert math.isnan(found.minimum)
    assert all(math.isnan(value) for value in found.percentiles)


def test_the_volume_is_left_as_it_was():
    volume = np.random.default_rng(0).normal(size=(9, 9)).astype(np.float32)
    before = volume.copy()
    measure_intensities(volume, (2.0, 1.0))
    measure_intensities(volume)
    np.testing.assert_array_equal(volume, before)
