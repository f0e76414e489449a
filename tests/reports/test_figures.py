import numpy as np
import pytest
from matplotlib.contour import ContourSet
from matplotlib.text import Text
from PIL import Image

from segfocal.data.phantom.stamp import STAMP
from segfocal.labels import LabelScheme
from segfocal.metrics.overlap import dice
from segfocal.reports import progress_figure as progress_module
from segfocal.reports import sample_figure as sample_module
from segfocal.reports.figures import progress_figure, sample_figure
from segfocal.reports.sample_figure import View
from segfocal.reports.style import line_look

SCHEME = LabelScheme.preset("msd-task01", ignore_values=(255,))


@pytest.fixture
def drawn(monkeypatch):
    """The Figure objects that were saved, for a look inside."""
    figures = []
    for module in (progress_module, sample_module):
        real = module.save

        def spy(figure, path, *, synthetic, real=real):
            real(figure, path, synthetic=synthetic)
            figures.append(figure)

        monkeypatch.setattr(module, "save", spy)
    return figures


def words(figure):
    return " ".join(text.get_text() for text in figure.findobj(Text))


def sample(volumes, path, **changes):
    image, reference, prediction = volumes
    settings = {"title": "CASE_$1 · epoch 12", "zooms_mm": (1.0, 1.5, 3.0), **changes}
    sample_figure(image, ("FLAIR", "T1gd"), reference, prediction, SCHEME, path, **settings)


def test_the_stamp_is_on_every_synthetic_figure_and_on_no_other(tmp_path, records, volumes, drawn):
    for synthetic in (True, False):
        progress_figure(records, tmp_path / "p.png", synthetic=synthetic)
        sample(volumes, tmp_path / "s.png", synthetic=synthetic)
        assert all((STAMP in words(figure)) == synthetic for figure in drawn[-2:])
        for name in ("p.png", "s.png"):
            with Image.open(tmp_path / name) as picture:
                assert (picture.info["Description"] == STAMP) == synthetic
                assert picture.size[0] > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png", "s.png"]


def test_progress_shows_every_series_with_its_numbers(tmp_path, records, drawn):
    progress_figure(records, tmp_path / "p.png", title="run")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert titles == [
        "Validation Dice, 96 cases",
        "Training loss (mean over the epoch)",
        "Lesion F1, pooled, 96 cases",
        "Learning rate",
        "Steps per second",
    ]
    lines = {line.get_label(): line.get_xydata() for line in drawn[0].axes[0].lines}
    np.testing.assert_allclose(lines["ET .742"], [[2, np.nan], [3, 0.742]])
    losses = {line.get_label(): line.get_ydata().tolist() for line in drawn[0].axes[1].lines}
    assert losses["total"] == [record.loss for record in records]
    assert losses["dice"] == [0.8, 0.391, 0.391]
    assert "best mean Dice .844 in epoch 2" in words(drawn[0])


def test_progress_can_be_drawn_after_one_epoch_without_validation(tmp_path, records, drawn):
    progress_figure(records[:1], tmp_path / "p.png")
    assert words(drawn[0]).count("no validation yet") == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_volume_of_one_slice_is_drawn(tmp_path, volumes, drawn, axis):
    image, reference, prediction = volumes
    at = {0: 21, 1: 15, 2: 10}[axis]
    reference[:, :4], reference[:4] = 255, 255
    one = (image.take([at], axis + 1), reference.take([at], axis), prediction.take([at], axis))
    sample(one, tmp_path / "s.png")
    contours = [panel.findobj(ContourSet) for panel in drawn[0].axes]
    assert sum(map(len, contours)) == {0: 0, 1: 3, 2: 3}[axis]


def test_the_patients_right_is_on_the_left_and_front_and_top_are_up():
    volume = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    axial = View("axial", 2, 1).cut(volume)
    assert axial.shape == (3, 2)
    assert axial[0, 0] == volume[1, 0, 1]
    assert axial[2, 1] == volume[0, 2, 1]
    coronal = View("coronal", 1, 2).cut(volume)
    assert coronal.shape == (4, 2)
    assert coronal[0, 0] == volume[1, 2, 0]
    assert coronal[3, 1] == volume[0, 2, 3]


def test_pixels_have_the_voxels_proportions():
    zooms = (2.0, 3.0, 8.0)
    assert View("axial", 2, 0).aspect(zooms) == 1.5
    assert View("coronal", 1, 0).aspect(zooms) == 4.0


def test_the_slice_shown_is_the_one_with_the_most_lesion(tmp_path, volumes, drawn):
    image, reference, prediction = volumes
    reference[19:28, 9:22, 13] = 1
    sample((image, reference, prediction), tmp_path / "s.png")
    lesion = (reference > 0) & (reference < 255)
    axial, coronal = lesion.sum((0, 1)).argmax(), lesion.sum((0, 2)).argmax()
    assert f"axial, slice {axial}" in words(drawn[0])
    assert f"coronal, slice {coronal}" in words(drawn[0])
    shown = drawn[0].axes[1].images[1].get_array()
    painted = np.asarray(shown)[..., 3] > 0
    np.testing.assert_array_equal(painted, lesion[:, :, axial][::-1].T)


def test_an_empty_reference_shows_the_false_alarm(tmp_path, volumes, drawn):
    image, _, prediction = volumes
    sample((image, np.zeros_like(prediction), prediction), tmp_path / "s.png")
    assert f"axial, slice {(prediction > 0).sum((0, 1)).argmax()}" in words(drawn[0])
    assert "Dice WT .000 TC .000 ET .000" in words(drawn[0])


def test_a_case_without_any_lesion_shows_the_middle(tmp_path, volumes, drawn):
    image, reference, _ = volumes
    nothing = np.zeros_like(reference)
    sample((image, nothing, nothing), tmp_path / "s.png")
    assert "axial, slice 10" in words(drawn[0])
    assert "Dice WT - TC - ET -" in words(drawn[0])


def test_the_title_gives_the_dice_of_annotated_voxels(tmp_path, volumes, drawn):
    _, reference, prediction = volumes
    prediction[:, :, 16:18] = 3
    sample(volumes, tmp_path / "s.png")
    valid = reference != 255
    expected = dice(prediction == 3, reference == 3, valid)
    assert 0.1 < expected < 0.9
    assert f"ET {expected:.3f}".replace("0.", ".") in words(drawn[0])


def test_each_row_shows_the_channel_that_tells_most(tmp_path, volumes, drawn):
    sample(volumes, tmp_path / "s.png")
    rows = [{text.get_text() for text in axes.texts} for axes in drawn[0].axes[::3]]
    assert rows == [{"R", "L", "FLAIR"}, {"R", "L", "T1gd"}]


def test_ignored_voxels_are_hatched_and_named(tmp_path, volumes, drawn):
    image, reference, prediction = volumes
    sample(volumes, tmp_path / "with.png")
    sample((image, np.where(reference == 255, 0, reference), prediction), tmp_path / "none.png")
    assert "not annotated, not scored" in words(drawn[0])
    assert "not annotated, not scored" not in words(drawn[1])
    hatched = [
        any("////" in contour.hatches for contour in axes.findobj(ContourSet) if contour.filled)
        for axes in drawn[0].axes
    ]
    assert hatched == [False, False, False, False, True, True]


def test_arrays_of_different_grids_are_refused(tmp_path, volumes):
    image, reference, prediction = volumes
    with pytest.raises(ValueError, match=r"^image, reference and prediction must share a grid"):
        sample((image, reference[1:], prediction), tmp_path / "s.png")
    assert not list(tmp_path.iterdir())


def test_drawing_leaves_its_inputs_and_pyplot_alone(tmp_path, volumes):
    import matplotlib.pyplot as plt

    before = [array.copy() for array in volumes]
    sample(volumes, tmp_path / "s.png")
    for array, copy in zip(volumes, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert plt.get_fignums() == []


def test_28_lines_can_be_told_apart():
    assert len({tuple(sorted(line_look(index).items())) for index in range(28)}) == 28
