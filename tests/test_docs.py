"""The examples of pages in docs run, each at most a screen of its own."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

from segfocal.evaluation import comparison_files, curve_files, files
from segfocal.reports import case_table, history

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "transforms.md"


@pytest.mark.parametrize(("page", "fewest"), [("transforms.md", 25), ("inference.md", 8)])
def test_the_examples_of_a_page_run(page, fewest):
    path = str(DOCS / page)
    results = doctest.testfile(path, module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > fewest
    assert results.failed == 0


def test_every_transform_of_ours_is_on_the_page():
    page = PAGE.read_text()
    folder = Path(__file__).parents[1] / "segfocal" / "transforms"
    for path in folder.glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith("class ") and "Transform" in line:
                name = line.split()[1].split("(")[0]
                assert f"`{name}`" in page, name


def test_the_python_of_the_evaluation_page_runs(capsys):
    page = PAGE.with_name("evaluate.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(block, "evaluate.md", "exec"), {})
    area, curve = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"0\.9[67]\d\d \+- \d\.\de-06", area)
    assert curve == "1.0 1.0"


@pytest.mark.parametrize(
    ("command", "page"),
    [
        ("train", "train-and-predict.md"),
        ("predict", "train-and-predict.md"),
        ("stats", "stats.md"),
        ("evaluate", "evaluate.md"),
        ("compare", "compare.md"),
        ("export", "export.md"),
    ],
)
def test_every_option_of_a_command_is_on_its_page(command, page, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f"segfocal.cli.{command}").main(["--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out.split("\nexamples:")[0]))
    told_for_all = {"--help", "--version", "--quiet", "--debug"}
    text = (DOCS / page).read_text()
    assert len(options) > len(told_for_all)
    lacking = {one for one in options - told_for_all if not re.search(rf"{one}(?![a-z-])", text)}
    assert not lacking


@pytest.mark.parametrize(
    ("page", "columns"),
    [
        ("train-and-predict.md", case_table._COLUMNS),
        ("train-and-predict.md", history.SUMMARY_FIELDS),
        ("evaluate.md", files.CASE_COLUMNS),
        ("evaluate.md", files.LESION_COLUMNS),
        ("evaluate.md", curve_files.PROBABILITY_COLUMNS),
        ("evaluate.md", curve_files.THRESHOLD_COLUMNS),
        ("evaluate.md", curve_files.RELIABILITY_COLUMNS),
        ("evaluate.md", curve_files.FROC_COLUMNS),
        ("compare.md", comparison_files.COLUMNS),
        ("compare.md", comparison_files.CASE_COLUMNS),
    ],
)
def test_every_column_of_a_table_is_on_its_page(page, columns):
    text = re.sub(r"```.*?```", "", (DOCS / page).read_text(), flags=re.DOTALL)
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", text))))
    key_columns = {"case", "class", "measure", "method"}  # "a row for each" names them
    assert not set(columns) - named - key_columns
