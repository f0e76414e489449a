import matplotlib.image
import numpy as np
import pytest

from segfocal.data.phantom.stamp import STAMP
from segfocal.metrics.probability_evaluation import (
    evaluate_probabilities,
    summarise_probabilities,
)
from segfocal.reports.curve_figure import curve_figure, draw_curves


def report(num_cases=3, *, seed=0, lesion=True, noise=0.3):
    cases = []
    for index in range(num_cases):
        rng = np.random.default_rng([seed, index])
        ref = np.zeros((9, 8, 7), bool)
        ref[2:4, 2:4, 2:4] = lesion
        probs = np.clip(0.7 * ref + noise * rng.random(ref.shape), 0, 1)
        cases.append(evaluate_probabilities(probs, ref))
    return summarise_probabilities(cases)


@pytest.mark.parametrize("num_classes", [1, 3, 41])
def test_every_class_has_a_line_in_every_panel_and_a_name(num_classes):
    reports = {f"$structure {i}$": report(seed=i) for i in range(num_classes)}
    figure = draw_curves(reports)
    precision, calibration, dice, froc = figure.axes
    assert len(precision.lines) == 2 * num_classes  # one of each is for the legend
    assert len(calibration.lines) == num_classes + 1  # the diagonal
    assert len(dice.lines) == 2 * num_classes
    assert len(froc.lines) == num_classes
    (legend,) = figure.legends
    assert len(legend.get_texts()) == num_classes
    figure.canvas.draw()
    box = legend.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0
    assert box.x0 >= calibration.get_window_extent().x1


def test_lines_are_the_numbers():
    one = report()
    precision, calibration, dice, froc = draw_curves({"a": one}).axes
    assert precision.lines[0].get_xdata()[-1] == 1
    np.testing.assert_array_equal(dice.lines[0].get_ydata(), one.mean_dice)
    assert dice.lines[1].get_xydata().tolist() == [[one.best_threshold, one.best_dice]]
    assert froc.lines[0].get_ydata()[-1] == one.froc.sensitivity[-1]
    assert calibration.lines[1].get_ydata()[0] < 0.1


def test_a_class_without_a_voxel_has_no_line_where_it_has_no_curve():
    reports = {"there": report(), "absent": report(lesion=False)}
    precision, _, dice, froc = draw_curves(reports).axes
    assert len(froc.lines) == 1
    assert len(precision.lines) == 3
    assert len(dice.lines) == 4
    text = draw_curves(reports).legends[0].get_texts()[1].get_text()
    assert text == "absent\nav. precision -\nin 0 of 3"


def test_no_false_positive_and_very_many_of_them_are_drawn():
    for noise in (0.0, 0.9):
        figure = draw_curves({"a": report(1, noise=noise)})
        figure.canvas.draw()
        rates = figure.axes[3].get_xlim()
        assert rates[1] >= 8


def test_the_stamp_stands_on_what_is_made_from_the_phantom(tmp_path):
    curve_figure({"a": report(1)}, tmp_path / "s.png", synthetic=True)
    curve_figure({"a": report(1)}, tmp_path / "r.png", synthetic=False)
    assert STAMP.encode() in (tmp_path / "s.png").read_bytes()
    assert STAMP.encode() not in (tmp_path / "r.png").read_bytes()
    stamped, plain = (matplotlib.image.imread(tmp_path / name) for name in ("s.png", "r.png"))
    assert stamped.shape == plain.shape
    assert not np.array_equal(stamped, plain)
