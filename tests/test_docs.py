"""The examples of docs/transforms.md run, each at most a screen of its own."""

import doctest
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "transforms.md"


def test_the_examples_of_the_transforms_page_run():
    results = doctest.testfile(str(PAGE), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert results.attempted > 25
    assert results.failed == 0


def test_every_transform_of_ours_is_on_the_page():
    page = PAGE.read_text()
    folder = Path(__file__).parents[1] / "segfocal" / "transforms"
    for path in folder.glob("*.py"):
        for line in path.read_text().splitlines():
            if line.startswith("class ") and "Transform" in line:
                name = line.split()[1].split("(")[0]
                assert f"`{name}`" in page, name
