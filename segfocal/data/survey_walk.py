"""Every case of a data set through `survey_case`, and what can be told between cases."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

from segfocal.data.case_survey import CaseSurvey, SurveyRules, survey_case
from segfocal.data.cases import Case
from segfocal.data.defects import Problem
from segfocal.data.processes import in_processes

Survey = Callable[[Case, SurveyRules], CaseSurvey]


def survey_cases(
    cases: Sequence[Case],
    rules: SurveyRules,
    *,
    workers: int = 1,
    on_case: Callable[[], None] = lambda: None,
    survey: Survey = survey_case,
) -> list[CaseSurvey]:
    """Surveys every case; the result does not depend on the number of processes.

    A process that dies (no memory left, a crash in a library) costs its own case alone, which
    gets a problem of kind `crashed`.

    Args:
        cases: The cases.
        rules: What to check them against.
        workers: Processes; each holds one volume at a time. 1 reads in this process.
        on_case: Called as each case is done, in whatever order.
        survey: What to do with a case; importable by name.

    Returns:
        One survey per case, in the order of `cases`, problems between cases included.
    """
    surveys = in_processes(
        cases,
        functools.partial(_survey_one, survey, rules),
        _crashed,
        workers=workers,
        on_done=on_case,
    )
    _note_copies(surveys)
    return surveys


def _survey_one(survey: Survey, rules: SurveyRules, case: Case) -> CaseSurvey:
    return survey(case, rules)


def _crashed(case: Case) -> CaseSurvey:
    text = (
        "there was not enough memory to read it, or the process that did so died. Try "
        "--workers 1, or crop the volume."
    )
    return CaseSurvey(case.case_id, problems=[Problem(case.case_id, "crashed", text)])


def _note_copies(surveys: Sequence[CaseSurvey]) -> None:
    """Adds a problem to every channel whose numbers were seen before."""
    seen: dict[str, tuple[str, str]] = {}
    for survey in surveys:
        for channel in survey.channels:
            if not channel.content:
                continue
            case_id, name = seen.setdefault(channel.content, (survey.case_id, channel.name))
            if (case_id, name) == (survey.case_id, channel.name):
                continue
            if case_id == survey.case_id:
                cure = f"its own {name}. Was the wrong file copied?"
            else:
                cure = (
                    f"{case_id}'s {name}. A copy on both sides of a split makes validation look "
                    f"better than it is: remove one."
                )
            text = f"{channel.name} holds the same numbers as {cure}"
            survey.problems.append(Problem(survey.case_id, "duplicate-image", text))
