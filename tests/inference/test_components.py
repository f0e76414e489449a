import numpy as np
import pytest

from segfocal.inference.components import keep_largest_component, remove_small_components


def two_islands():
    classes = np.zeros((10, 10, 10), dtype=np.uint8)
    classes[1:4, 1:4, 1:4] = 1
    classes[2, 2, 2] = 2
    classes[8, 8, 8] = 1
    return classes


@pytest.mark.parametrize("voxel_mm3", [2.0, 0.01])
@pytest.mark.parametrize("step", [1, -1], ids=["last", "first"])
def test_only_components_below_the_volume_go(step, voxel_mm3):
    classes = two_islands()[::step]
    cleaned = remove_small_components(classes, min_volume_mm3=2 * voxel_mm3, voxel_mm3=voxel_mm3)
    expected = two_islands()
    expected[8, 8, 8] = 0
    assert np.array_equal(cleaned, expected[::step])


def test_a_background_below_the_volume_is_no_component():
    classes = np.ones((3, 3, 3), dtype=np.uint8)
    for background in (None, (0, 0, 0)):
        if background is not None:
            classes[background] = 0
        assert remove_small_components(classes, min_volume_mm3=2, voxel_mm3=1.0) is classes


def test_a_component_of_exactly_the_volume_stays():
    classes = two_islands()
    assert remove_small_components(classes, min_volume_mm3=2.0, voxel_mm3=2.0) is classes
    assert np.array_equal(classes, two_islands())


def test_the_rounding_of_a_header_takes_no_component_of_exactly_the_volume():
    """The voxel of 1 mm that a turned sform of float32 holds: 0.9999999 mm3."""
    turn = np.radians(10.0)
    axes = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]], np.float32)
    voxel_mm3 = float(np.linalg.det(axes.astype(float)))
    assert voxel_mm3 < 1
    classes = two_islands()
    assert remove_small_components(classes, min_volume_mm3=1, voxel_mm3=voxel_mm3) is classes


def test_touching_by_a_corner_is_one_component():
    classes = np.zeros((4, 4, 4), dtype=np.uint8)
    classes[0, 0, 0] = classes[1, 1, 1] = 1
    kept = remove_small_components(classes, min_volume_mm3=2.0, voxel_mm3=1.0)
    assert (kept > 0).sum() == 2


def test_a_nested_class_does_not_make_its_surroundings_two_components():
    # The rim around a core of another class is one lesion with it, whatever its own size.
    classes = np.zeros((5, 5, 5), dtype=np.uint8)
    classes[2, 2, 2] = 1
    classes[1:4, 1:4, 1:4][classes[1:4, 1:4, 1:4] == 0] = 2
    assert (remove_small_components(classes, min_volume_mm3=27, voxel_mm3=1.0) > 0).sum() == 27


def test_zero_keeps_everything_and_the_input_is_untouched():
    classes = two_islands()
    assert remove_small_components(classes, min_volume_mm3=0.0, voxel_mm3=1.0) is classes
    remove_small_components(classes, min_volume_mm3=100.0, voxel_mm3=1.0)
    assert np.array_equal(classes, two_islands())


@pytest.mark.parametrize("step", [1, -1], ids=["first", "last"])
def test_the_largest_component_stays_with_all_its_classes(step):
    classes = two_islands()
    classes[6:8, 6:8, 6:8] = 2  # touches the voxel at (8, 8, 8) by a corner: nine voxels together
    kept = keep_largest_component(classes[::step])
    expected = two_islands()
    expected[8, 8, 8] = 0
    assert np.array_equal(kept, expected[::step])
    assert kept.dtype == classes.dtype
    assert (classes[6:8, 6:8, 6:8] == 2).all()


def test_of_two_alike_the_first_stays():
    classes = np.zeros((5, 1, 1), dtype=np.uint8)
    classes[1] = classes[4] = 1
    assert keep_largest_component(classes).ravel().tolist() == [0, 1, 0, 0, 0]


def test_one_component_or_none_is_left_as_it_is():
    for classes in (np.zeros((3, 3, 3), np.uint8), np.ones((3, 3, 3), np.uint8)):
        assert keep_largest_component(classes) is classes


def test_slices_have_components_too():
    classes = np.zeros((6, 6), dtype=np.uint8)
    classes[0, 0] = classes[1, 1] = classes[5, 0] = 1
    for kept in (
        keep_largest_component(classes),
        remove_small_components(classes, min_volume_mm3=2.0, voxel_mm3=1.0),
    ):
        assert np.argwhere(kept).tolist() == [[0, 0], [1, 1]]
