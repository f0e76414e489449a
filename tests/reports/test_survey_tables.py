import io

import pytest
import rich.console

from segfocal.data.dataset_stats import ChannelStats
from segfocal.data.defects import Problem
from segfocal.data.group_stats import GroupStats
from segfocal.reports.survey_tables import (
    alpha_table,
    channel_table,
    class_table,
    problem_lines,
    problem_summary,
)
from segfocal.statistics.class_alpha import ClassAlpha


def cells(table):
    """The table's rows as lists of words between its rulers."""
    out = io.StringIO()
    table.box = rich.box.ASCII2
    rich.console.Console(file=out, width=160).print(table)
    lines = [line for line in out.getvalue().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_tells_voxels_cases_and_lesions():
    groups = [
        GroupStats("background", "class", (0,), 9_000_000, 0.999, 3, 3, ()),
        GroupStats("core", "class", (2,), 9_000, 0.001, 2, 3, (0.5, 12.345, 12345.6)),
        GroupStats("WT", "region", (1, 2), 9_000, 0.001, 2, 3, ()),
    ]
    rows = cells(class_table(groups))
    assert rows[-3] == ["background", "0", "9,000,000", "99.9%", "3", "", "", ""]
    assert rows[-2] == ["core", "2", "9,000", "0.10%", "2", "3", "12.3", "0.5"]
    assert rows[-1] == ["WT", "1,2", "9,000", "0.10%", "2", "0", "", ""]


def test_a_row_tells_over_how_many_annotated_cases_it_is():
    groups = [
        GroupStats("background", "class", (0,), 0, 0.0, 0, 0, ()),
        GroupStats("liver", "class", (1,), 9_000, 0.001, 2, 4, (0.5,)),
        GroupStats("spleen", "class", (2,), 0, 0.0, 0, 3, ()),
    ]
    table = class_table(groups)
    assert table.title == "Classes and lesions (over the cases annotated for each)"
    rows = cells(table)
    assert rows[-3] == ["background", "0", "-", "-", "0 of 0", "", "", ""]
    assert rows[-2] == ["liver", "1", "9,000", "0.10%", "2 of 4", "1", "0.5", "0.5"]
    assert rows[-1] == ["spleen", "2", "0", "0%", "0 of 3", "0", "", ""]


@pytest.mark.parametrize(
    ("kind", "options", "num_cases", "title"),
    [
        ("class", {}, 5, "loss.alpha (weight of each class, mean 1)"),
        ("class", {"unit": "lesions"}, 5, "loss.alpha (weight of each class, mean 1, by lesions)"),
        (
            "class",
            {},
            2,
            "loss.alpha (weight of each class, mean 1, over the 2 cases annotated for every class)",
        ),
        (
            "region",
            {"annotated": "by region"},
            5,
            "loss.alpha (alpha of each region, each over the cases annotated for it)",
        ),
    ],
)
def test_the_title_of_alpha_tells_where_it_comes_from(kind, options, num_cases, title):
    record = ClassAlpha((1.0, 1.0), ("a", "b"), kind, "balanced", options, {"num_cases": num_cases})
    assert alpha_table({"balanced": record}, 5).title == title


def test_a_channel_of_zeros_has_dashes():
    channel = ChannelStats("CT", {"int16": 2}, -1024.0, 0.0, 1.0, {"50%": None}, {"50%": None})
    assert cells(channel_table([channel]))[-1] == [
        "CT", "int16", "-1024", "-", "0", "100%",
    ]  # fmt: skip


def test_what_a_channel_holds_in_the_classes_stands_below_it():
    channel = ChannelStats("CT", {"int16": 2}, -1024.0, 900.0, 0.0, {"50%": -90.0}, {"50%": 41.5})
    assert cells(channel_table([channel]))[-2:] == [
        ["CT", "int16", "-1024", "-90", "900", "0%"],
        ["in classes", "", "", "41.5", "", ""],
    ]


def test_an_alpha_near_one_is_told_from_one():
    record = ClassAlpha((0.5, 0.99996), ("WT", "ET"), "region", "balanced", {}, {})
    rows = cells(alpha_table({"balanced": record}, 3))
    assert rows[-2:] == [["WT", "0.5"], ["ET", "0.99996"]]


def test_problems_are_told_and_counted():
    problems = [
        Problem("a", "shape", "image is 1x1x1, label is 2x2x2."),
        Problem("a", "forms", "qform and sform differ."),
        Problem("b", "shape", "image is 1x1x1, label is 3x3x3."),
    ]
    assert problem_lines(problems) == [
        "error  a: image is 1x1x1, label is 2x2x2. [shape]",
        "doubt  a: qform and sform differ. [forms]",
        "error  b: image is 1x1x1, label is 3x3x3. [shape]",
    ]
    assert problem_summary(problems, 5) == (
        "5 cases checked: 3 problems in 2 cases (shape 2, forms 1). Training stops at 2 errors; "
        "1 doubt may be as it should be."
    )
    assert problem_summary([], 1) == "1 case checked: no problem found."
