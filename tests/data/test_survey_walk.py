import os
import time
from pathlib import Path

import pytest

from segfocal.data.case_survey import CaseSurvey, SurveyRules
from segfocal.data.cases import Case
from segfocal.data.survey_walk import survey_cases
from segfocal.labels import LabelScheme

from .nifti_files import TURNED, image_of, label_of, save

RULES = SurveyRules(LabelScheme(("background", "tumour"), (0, 1)), ("CT",), None, 0.1, 10_000)


def cases_in(folder, count=5):
    return [
        Case(
            f"c{i}",
            (save(folder / f"c{i}_0000.nii.gz", image_of((6, 5, 4), i), TURNED),),
            save(folder / f"c{i}.nii.gz", label_of((6, 5, 4), seed=i), TURNED),
        )
        for i in range(count)
    ]


def fatal_for_c2(case, rules):
    """Dies as a process does that the system kills for its memory."""
    if case.case_id == "c2":
        os._exit(9)
    return CaseSurvey(case.case_id)


def out_of_memory_for_c1(case, rules):
    if case.case_id == "c1":
        raise MemoryError
    return CaseSurvey(case.case_id)


def waits_for_the_others(case, rules):
    """The first case is done only when every other one is."""
    folder = case.images[0].parent
    if case.case_id == "c0":
        deadline = time.monotonic() + 60
        while len(list(folder.glob("*.done"))) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    (folder / f"{case.case_id}.done").touch()
    return CaseSurvey(case.case_id)


def test_processes_find_what_one_finds(tmp_path):
    cases = cases_in(tmp_path)
    cases[3].label.write_bytes(b"")
    calls = []
    alone = survey_cases(cases, RULES)
    together = survey_cases(cases, RULES, workers=2, on_case=lambda: calls.append(1))
    assert together == alone
    assert len(calls) == 5
    assert [survey.case_id for survey in together] == ["c0", "c1", "c2", "c3", "c4"]
    assert [len(survey.problems) for survey in together] == [0, 0, 0, 1, 0]


def test_a_slow_case_blocks_no_other(tmp_path):
    cases = [Case(f"c{i}", (tmp_path / "x",), None) for i in range(4)]
    surveys = survey_cases(cases, RULES, workers=2, survey=waits_for_the_others)
    assert [survey.case_id for survey in surveys] == ["c0", "c1", "c2", "c3"]


def test_a_process_that_dies_costs_its_own_case_alone():
    cases = [Case(f"c{i}", (Path("x"),), None) for i in range(6)]
    surveys = survey_cases(cases, RULES, workers=2, survey=fatal_for_c2)
    assert [survey.case_id for survey in surveys] == [f"c{i}" for i in range(6)]
    assert [bool(survey.problems) for survey in surveys] == [i == 2 for i in range(6)]
    (problem,) = surveys[2].problems
    assert problem.kind == "crashed"
    assert str(problem) == (
        "c2: there was not enough memory to read it, or the process that did so died. Try "
        "--workers 1, or crop the volume."
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_want_of_memory_costs_its_own_case_alone(workers):
    cases = [Case(f"c{i}", (Path("x"),), None) for i in range(3)]
    surveys = survey_cases(cases, RULES, workers=workers, survey=out_of_memory_for_c1)
    assert [[p.kind for p in survey.problems] for survey in surveys] == [[], ["crashed"], []]
