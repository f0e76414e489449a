"""The mutants still fit the sources, and the runner tells a caught one from one that passes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("mutants", HERE / "mutants.py")
mutants = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutants)


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_its_text_stands_exactly_once_in_the_sources(mutant):
    source = (mutants.ROOT / "segfocal" / mutant.path).read_text()
    assert source.count(mutant.old) == 1
    assert mutant.old != mutant.new
    assert all((mutants.ROOT / test.split("::")[0]).exists() for test in mutant.tests)


def test_names_are_unique():
    names = [mutant.name for mutant in mutants.MUTANTS]
    assert len(set(names)) == len(names)


@pytest.mark.slow
def test_a_mistake_is_caught_and_no_mistake_is_not(tmp_path):
    tests = ("tests/test_numpy.py::test_by_hand",)
    old = "positive = -weight_pos * (1 - p) ** gamma * np.log(p)"
    mistake = mutants.Mutant("sign", "numpy.py", old, old.replace("-weight", "weight"), tests)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert mutants.is_caught(mistake, tmp_path / "a")
    assert not mutants.is_caught(mistake._replace(new=old), tmp_path / "b")
