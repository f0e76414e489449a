"""benchmarks/monai_defects.py at small size: every row measured, segfocal's side right."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import monai_defects

    yield monai_defects
    for name in [key for key in sys.modules if key == "monai_defects" or key.startswith("defects")]:
        del sys.modules[name]


def a_row(table, *, is_right=True, ours="1"):
    return table.Row("trap", "measured", "4", ours, is_right)


def test_every_row_is_measured_and_none_of_ours_is_wrong(table):
    rows = table.measure(16)
    assert len(rows) == 31
    assert [row.trap for row in rows if row.is_right is False] == []
    assert all(row.is_right or table.NOT_YET in row.ours for row in rows)
    assert all(row.monai and row.ours and row.monai != row.ours for row in rows)


def test_a_wrong_row_is_marked_named_and_exits_1(table, monkeypatch, capsys):
    rows = [a_row(table), a_row(table, is_right=False)]
    monkeypatch.setattr(table, "measure", lambda size: rows)
    monkeypatch.setattr(sys, "argv", ["monai_defects.py"])
    assert table.main() == 1
    printed = capsys.readouterr()
    assert "| trap | measured | 4 | 1 |\n| trap | measured | 4 | 1 **wrong** |" in printed.out
    assert printed.err == "segfocal's number is wrong: trap\n"


def test_a_wrong_row_is_not_written(table, monkeypatch, tmp_path):
    page = tmp_path / "losses.md"
    monkeypatch.setattr(table, "measure", lambda size: [a_row(table, is_right=False)])
    monkeypatch.setattr(sys, "argv", ["monai_defects.py", "--write", str(page)])
    assert table.main() == 1
    assert not page.exists()


def test_write_replaces_its_part_of_the_page_and_nothing_else(table, monkeypatch, tmp_path):
    page = tmp_path / "losses.md"
    page.write_text(f"# Mine\n\nkept\n\n{table.BEGIN}\nold\n{table.END}\n\n## kept too\n")
    monkeypatch.setattr(table, "measure", lambda size: [a_row(table)])
    monkeypatch.setattr(sys, "argv", ["monai_defects.py", "--write", str(page)])
    assert table.main() == 0
    text = page.read_text()
    assert text.startswith(f"# Mine\n\nkept\n\n{table.BEGIN}\n")
    assert text.endswith(f"| trap | measured | 4 | 1 |\n{table.END}\n\n## kept too\n")
    assert "old" not in text


def test_rows_that_wait_for_a_loss_are_counted(table, monkeypatch, capsys):
    rows = [a_row(table), a_row(table, is_right=None, ours=table.NOT_YET)]
    monkeypatch.setattr(table, "measure", lambda size: rows)
    monkeypatch.setattr(sys, "argv", ["monai_defects.py"])
    assert table.main() == 0
    assert "1 rows wait for a loss" in capsys.readouterr().out
