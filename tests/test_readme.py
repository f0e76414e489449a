"""The README's Python runs, and the files and commands that it names exist."""

import re
from pathlib import Path

README = Path("README.md").read_text()


def test_the_python_of_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) > 1
    names = {}  # one after the other, as a reader would type them
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert names["alpha"].provenance["num_cases"] == 2


def test_the_tree_of_the_readme_names_what_is_there():
    tree = README.split("## Files")[1]
    named = re.findall(r"\b([a-z_]+(?:/|\.py))(?=\s)", tree)
    assert len(named) > 15
    for name in named:
        places = (Path(name), Path("segfocal") / name)
        assert any(place.exists() for place in places), name


def test_the_configs_of_the_readme_ship_or_are_written_before():
    written = set()
    for option, name in re.findall(r"--(config|suggest) ([a-z0-9_]+\.yaml)", README):
        if option == "suggest":
            written.add(name)
        else:
            assert name in written or (Path("configs") / name).exists(), name
