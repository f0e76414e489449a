"""The examples of pages in docs run, each at most a screen of its own."""

import doctest
import re
from pathlib import Path

import pytest

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
