"""Every case of a data set through `survey_case`: several processes, none waiting for another."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from segfocal.data.case_survey import CaseSurvey, SurveyRules, survey_case
from segfocal.data.cases import Case
from segfocal.data.defects import Problem

Survey = Callable[[Case, SurveyRules], CaseSurvey]

_QUEUED_AHEAD = 1
"""Cases that an executor hands to its processes beyond one each."""


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


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
    if workers <= 1:
        surveys = []
        for case in cases:
            surveys.append(_guarded(survey, case, rules))
            on_case()
    else:
        surveys = _in_processes(cases, rules, workers, on_case, survey)
    _note_copies(surveys)
    return surveys


def _in_processes(
    cases: Sequence[Case],
    rules: SurveyRules,
    workers: int,
    on_case: Callable[[], None],
    survey: Survey,
) -> list[CaseSurvey]:
    done: dict[str, CaseSurvey] = {}

    def keep(found: CaseSurvey) -> None:
        done[found.case_id] = found
        on_case()

    left = list(cases)
    while left:
        if _try_all(left, rules, workers, keep, survey):
            break
        left = [case for case in left if case.case_id not in done]
        # Whoever killed its process is among the first of those left: they were being read.
        for suspect in left[: workers + _QUEUED_AHEAD]:
            if not _try_all([suspect], rules, 1, keep, survey):
                keep(_crashed(suspect))
        left = [case for case in left if case.case_id not in done]
    return [done[case.case_id] for case in cases]


def _try_all(
    cases: Iterable[Case],
    rules: SurveyRules,
    workers: int,
    keep: Callable[[CaseSurvey], None],
    survey: Survey,
) -> bool:
    """Surveys the cases in fresh processes; False where one of these died."""
    # spawn: a forked copy of a process with threads (the progress bar's) may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_die_on_interrupt)
    try:
        futures = [pool.submit(_guarded, survey, case, rules) for case in cases]
        for future in as_completed(futures):
            keep(future.result())
    except BrokenProcessPool:
        return False
    finally:
        pool.shutdown(cancel_futures=True)
    return True


def _die_on_interrupt() -> None:
    """Ctrl-C ends a worker at once and without a traceback; the parent tells of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _guarded(survey: Survey, case: Case, rules: SurveyRules) -> CaseSurvey:
    try:
        return survey(case, rules)
    except MemoryError:
        return _crashed(case)


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
