import itertools
import math

import matplotlib.image
import pytest

from segfocal.metrics.comparison_measures import CaseClass
from segfocal.metrics.lesionwise import LesionCounts
from segfocal.metrics.method_comparison import compare_methods
from segfocal.reports.comparison_figure import comparison_figure, draw_comparison

KEYS = ("dice", "hd95_mm", "nsd", "lesion_f1", "assd_mm")


def case(dice, distance, found):
    values = {"dice": dice, "nsd": dice, "hd95_mm": distance, "assd_mm": distance}
    return CaseClass(10, LesionCounts(3, found, 1), values)


def results(num_methods=2, names=("a", "b"), keys=KEYS):
    methods = {
        f"m{m}": {
            f"c{c}": {name: case(0.5 + 0.1 * m + 0.05 * c, 4.0 - m + c, m) for name in names}
            for c in range(4)
        }
        for m in range(num_methods)
    }
    return compare_methods(methods, "m0", {f"c{c}": str(c) for c in range(4)}, keys)


@pytest.mark.parametrize("num_methods", [2, 4])
def test_every_class_and_method_has_a_row_in_every_panel(num_methods):
    figure = draw_comparison(results(num_methods), "m0")
    assert [panel.get_title().split("\n")[0] for panel in figure.axes] == [
        "Dice", "HD95 in mm", "NSD", "Lesion F1, all cases"
    ]  # fmt: skip
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    others = [f"m{m}" for m in range(1, num_methods)]
    if num_methods == 2:
        assert labels == ["a", "b", "mean of classes"]
    else:
        assert labels == [f"{c} · {m}" for c in ("a", "b", "mean of classes") for m in others]
    figure.canvas.draw()
    for panel in figure.axes:
        low, high = panel.get_xlim()
        labels = [la for la in panel.get_xticklabels() if low <= la.get_position()[0] <= high]
        ticks = [label.get_window_extent() for label in labels]
        assert len(ticks) >= 2
        assert all(left.x1 < right.x0 for left, right in itertools.pairwise(ticks))
        box = panel.get_tightbbox()
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_dots_are_differences_and_the_bar_is_their_interval():
    found = results()
    panel = draw_comparison(found, "m0").axes[0]
    dots = next(line for line in panel.lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == pytest.approx([0.1] * 4)
    far = found["hd95_mm"]["a"].differences["m1"].estimate
    distances = draw_comparison(found, "m0").axes[1]
    diamond = next(line for line in distances.lines if line.get_marker() == "D")
    assert list(diamond.get_xdata()) == pytest.approx([-1])
    bars = [tuple(line.get_xdata()) for line in distances.lines if len(line.get_xdata()) == 2]
    assert pytest.approx((far.low, far.high)) in bars


def test_of_the_lesions_of_all_cases_there_are_no_dots():
    panel = draw_comparison(results(), "m0").axes[3]
    assert not [line for line in panel.lines if line.get_marker() == "o"]
    assert len([line for line in panel.lines if line.get_marker() == "D"]) == 3


def test_sides_are_named():
    panels = draw_comparison(results(), "m0").axes
    assert panels[0].get_title().endswith("(right is better)")
    assert panels[1].get_title().endswith("(left is better)")
    for panel in panels:  # a line from the bottom to the top where neither is better
        assert [0, 0] in [list(line.get_xdata()) for line in panel.lines]


def test_one_method_shows_its_values():
    figure = draw_comparison(results(1), "m0")
    dots = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == pytest.approx([0.5, 0.55, 0.6, 0.65])
    assert figure.get_suptitle().startswith("m0: dots are cases")
    assert figure.axes[0].get_xlim() == pytest.approx((-0.03, 1.03))


def test_what_was_asked_for_is_drawn_where_it_is_nothing_that_is_told():
    figure = draw_comparison(results(keys=("assd_mm",)), "m0")
    assert [panel.get_title().split("\n")[0] for panel in figure.axes] == ["ASSD in mm"]


def test_names_may_be_long_and_signs_are_no_mathematics(tmp_path):
    names = ("$x_1$ " + "very " * 20, "b")
    figure = draw_comparison(results(3, names), "m0")
    figure.canvas.draw()
    for panel in figure.axes:
        assert panel.get_tightbbox().x0 >= figure.bbox.x0
    comparison_figure(results(3, names), "m0", tmp_path / "a.png", synthetic=True)
    assert matplotlib.image.imread(tmp_path / "a.png").ndim == 3


def test_a_class_that_nobody_measured_has_an_empty_row():
    nothing = CaseClass(0, LesionCounts(0, 0, 0), {"dice": math.nan})
    methods = {m: {"c1": {"a": case(0.5, 1.0, 1), "b": nothing}} for m in ("m0", "m1")}
    found = compare_methods(methods, "m0", {"c1": "1"}, ["dice"])
    panel = draw_comparison(found, "m0").axes[0]
    assert [line.get_ydata()[0] for line in panel.lines if line.get_marker() == "D"] == [0, 2]
