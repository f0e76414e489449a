import math

from segfocal.metrics.comparison_measures import MEASURES, CaseClass
from segfocal.metrics.lesionwise import LesionCounts
from segfocal.metrics.method_comparison import compare_methods
from segfocal.reports.comparison_tables import comparison_table, signed
from segfocal.reports.text import fraction


def cells(table):
    columns = [list(column.cells) for column in table.columns]
    return [tuple(row) for row in zip(*columns, strict=True)]


def case(value, key="dice"):
    return CaseClass(10, LesionCounts(1, 1, 0), {key: value})


def compared(first, second, key="dice"):
    methods = {
        name: {f"c{at}": {"a": case(value, key), "b": case(value / 2, key)} for at, value in
               enumerate(values)} for name, values in (("first", first), ("second", second))
    }  # fmt: skip
    return compare_methods(methods, "first", {f"c{at}": str(at) for at in range(len(first))}, [key])


def test_rows_hold_the_class_once_and_the_baseline_no_difference():
    results = compared([0.5, 0.6, 0.7], [0.6, 0.6, 0.9])["dice"]
    rows = cells(comparison_table(MEASURES["dice"], results, "first", 0.95))
    assert [row[:4] for row in rows] == [
        ("a", "first", "3", ".600"),
        ("", "second", "", ".700"),
        ("b", "first", "3", ".300"),
        ("", "second", "", ".350"),
        ("mean", "first", "", ".450"),
        ("", "second", "", ".525"),
    ]
    assert rows[0][4] == ".352 .848"
    assert rows[0][5:] == ("", "", "", "")
    assert rows[1][5:] == ("+.100", "-.148 +.348", "2:0", "1.000")
    assert rows[5][5:] == ("+.075", "-.111 +.261", "", "1.000")


def test_distances_are_millimetres():
    results = compared([5.0, 6.0], [3.0, 6.5], "hd95_mm")["hd95_mm"]
    table = comparison_table(MEASURES["hd95_mm"], results, "first", 0.95)
    assert table.title == "HD95 in mm (lower is better), differences from first"
    assert cells(table)[1][3:6] == ("4.75", "0.00 27.0", "-0.75")
    assert cells(table)[1][7] == "1:1"


def test_what_cannot_be_told_is_a_dash():
    results = compared([math.nan], [math.nan])["dice"]
    rows = cells(comparison_table(MEASURES["dice"], results, "first", 0.95))
    assert rows[0] == ("a", "first", "0", "-", "-", "", "", "", "")
    assert rows[1] == ("", "second", "", "-", "-", "-", "-", "0:0", "-")


def test_one_method_has_no_column_of_differences():
    methods = {"only": {"c1": {"a": case(0.5)}, "c2": {"a": case(0.7)}}}
    results = compare_methods(methods, "only", {"c1": "1", "c2": "2"}, ["dice"])["dice"]
    table = comparison_table(MEASURES["dice"], results, "only", 0.95)
    assert table.title == "Dice (higher is better)"
    assert [column.header for column in table.columns] == [
        "\nclass", "\nmethod", "\ncases", "\nvalue", "\n95% CI"
    ]  # fmt: skip
    assert cells(table) == [("a", "only", "2", ".600", ".000 1.000")]


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    assert signed(-0.0001, fraction) == ".000"
    assert signed(0.0, fraction) == ".000"
    assert signed(-0.0006, fraction) == "-.001"
