import math

import pytest

from segfocal.reports.csv_file import cell, number, read_csv, write_csv


def test_cells_read_back_as_they_were_written(tmp_path):
    rows = [{"a": 'x, "y"\r\nz', "b": ""}, {"a": " größe\n", "b": "0"}]
    write_csv(tmp_path / "t.csv", ("a", "b"), rows)
    assert read_csv(tmp_path / "t.csv") == rows
    assert (tmp_path / "t.csv").read_bytes().startswith(b"a,b\n")


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-320, -0.0, math.inf, 5e22])
def test_numbers_read_back_equal(value):
    assert repr(number(cell(value))) == repr(value)


def test_what_is_unknown_is_an_empty_cell_and_a_whole_number_has_no_point():
    assert cell(None) == cell(math.nan) == ""
    assert math.isnan(number(""))
    assert cell(3) == "3"
