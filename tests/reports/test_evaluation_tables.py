import io

import numpy as np
import pytest
import rich.console

from segfocal.data.phantom.stamp import STAMP
from segfocal.metrics.evaluation import Measures, evaluate_classes
from segfocal.metrics.evaluation_summary import summarise_evaluations
from segfocal.metrics.lesion_sizes import SizeBin
from segfocal.metrics.lesionwise import LesionCounts
from segfocal.reports.evaluation_figure import draw_evaluation, evaluation_figure
from segfocal.reports.evaluation_tables import (
    brats_table,
    class_mean,
    empty_table,
    lesion_size_table,
    lesion_table,
    overlap_table,
)

NAMES = ("whole tumour and oedema", "ET")


def cases(num=3, lesions="plain"):
    """Of every second case the prediction lacks ET."""
    found = []
    for index in range(num):
        reference = np.zeros((12, 9, 8), np.uint8)
        reference[2:6, 2:6, 2:5], reference[3, 3, 3] = 1, 2
        predicted = np.roll(reference, index % 2, 0)
        predicted[predicted == 2] = 1 if index % 2 else 2
        targets = dict(zip(NAMES, ((1, 2), (2,)), strict=True))
        measures = Measures(lesions=lesions)
        found.append(evaluate_classes(predicted, reference, targets, (1.0, 1.0, 2.0), measures))
    return found


def printed(table, width=80):
    text = io.StringIO()
    rich.console.Console(file=text, width=width).print(table)
    return text.getvalue().splitlines()


def words(lines, name):
    return next(line.split() for line in lines if line.strip().startswith(name))


@pytest.mark.parametrize("make", [lambda r: overlap_table(r, 2.0), lambda r: lesion_table(r, "x")])
def test_a_table_fits_80_columns_and_cuts_no_number(make):
    reports = summarise_evaluations(cases(120))
    lines = printed(make(reports))
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)


def test_means_medians_and_numbers_of_cases_stand_in_the_row():
    reports = summarise_evaluations(cases(3))
    row = words(printed(overlap_table(reports, 2.0)), "ET")
    et = reports["ET"]
    assert row[1:4] == ["3", f"{et.dice.mean:.3f}"[1:], "1.000"]
    assert row[4:6] == [f"{et.hd95_mm.mean:.2f}", "0.00"]
    mean = words(printed(overlap_table(reports, 2.0)), "mean")
    assert mean[1] == f"{class_mean(reports, 'dice'):.3f}"[1:]
    lesions = words(printed(lesion_table(reports, "x")), "ET")
    assert lesions[4:] == ["3", "2", "1", "0", ".667", ".800"]


def test_cases_that_hold_a_class_nowhere_are_told_apart_from_those_scored():
    nothing = np.zeros((4, 4, 4), np.uint8)
    neither = evaluate_classes(nothing, nothing, {"a": (1,)}, (1, 1, 1), Measures())
    both = evaluate_classes(nothing + 1, nothing + 1, {"a": (1,)}, (1, 1, 1), Measures())
    reports = summarise_evaluations([neither, both])
    assert words(printed(overlap_table(reports, 2.0)), "a")[1] == "1/2"
    assert words(printed(empty_table(reports)), "a") == ["a", "1", "0", "0", "1", "0.00"]
    assert empty_table(summarise_evaluations([both])) is None
    alone = summarise_evaluations([neither])
    assert words(printed(overlap_table(alone, 2.0)), "a")[1:4] == ["0/1", "-", "-"]


def test_brats_scores_are_told_with_what_is_left_out():
    reports = summarise_evaluations(cases(2, "brats-met"))
    # ET is one voxel of 2 mm3, too small to be scored: both cases have nothing, 1 and 0 by rule
    row = words(printed(brats_table(reports)), "ET")
    assert row == ["ET", "2", "1.000", "1.000", "0.00", "0.00", "0", "2", "2"]


def test_the_figure_shows_every_case_once_and_marks_penalties(tmp_path):
    found = cases(5)
    left, right = draw_evaluation(found).axes
    for axes in (left, right):
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert sum(len(line.get_xdata()) for line in dots) == 5 * len(NAMES)
        hollow = [line for line in dots if line.get_markerfacecolor() == "none"]
        assert sum(len(line.get_xdata()) for line in hollow) == 2
    evaluation_figure(found, tmp_path / "e.png", synthetic=True)
    assert STAMP.encode() in (tmp_path / "e.png").read_bytes()


def test_a_class_without_any_score_leaves_its_row_empty():
    nothing = np.zeros((4, 4, 4), np.uint8)
    neither = evaluate_classes(nothing, nothing, {"a": (1,)}, (1, 1, 1), Measures())
    assert not draw_evaluation([neither]).axes[0].lines


def sized(*bins, edges=(0, 10, 100, float("inf"))):
    ends = zip(edges[:-1], edges[1:], bins, strict=True)
    return [SizeBin(low, high, LesionCounts(*counts)) for low, high, counts in ends]


def test_lesions_stand_by_size_and_empty_sizes_nowhere():
    nothing = (0, 0, 0)
    table = lesion_size_table(
        {"ET": sized((13, 1, 2000), nothing, (4, 3, 0)), "WT": sized(nothing, nothing, (1, 1, 0))}
    )
    lines = printed(table)
    assert [line.split() for line in lines[2:4]] == [["below", "from"], ["class", "10", "100"]]
    assert [line.split() for line in lines[5:8]] == [
        ["ET", "found", "1/13", "3/4"],
        ["false", "pos.", "2,000", "0"],
        ["WT", "found", "-", "1/1"],
    ]
    assert lesion_size_table({"ET": sized(nothing, (1, 0, 2), nothing)}) is None
    assert lesion_size_table({}) is None
    only_false = lesion_size_table({"ET": sized(nothing, (1, 0, 0), (0, 0, 1))})
    assert ["ET", "found", "0/1", "-"] in [line.split() for line in printed(only_false)]


def test_sizes_fit_80_columns():
    ends = (0, 10, 100, 1000, 10000, float("inf"))
    lines = printed(lesion_size_table({NAMES[0]: sized(*[(9999, 9999, 99999)] * 5, edges=ends)}))
    assert max(map(len, lines)) <= 80
    assert "10 to 100 to 1000 to" in " ".join(lines[2].split())
    assert not any("…" in line for line in lines)
