"""What an evaluation found."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from segfocal.data.defects import Problem
from segfocal.data.phantom.stamp import STAMP
from segfocal.evaluation.case import CaseEvaluation, EvaluationRules
from segfocal.metrics.evaluation_summary import RegionReport, summarise_evaluations


@dataclass(frozen=True)
class Outcome:
    """All cases, and what could not be evaluated.

    Attributes:
        cases: Those that were evaluated, by name.
        problems: Why others were not.
        rules: What was measured, and what label values mean.
        labels_from: Who says so.
        is_synthetic: Whether any of it is the phantom's.
        trained_on: Those of the cases that the run was trained on, by the names in its split.json.
    """

    cases: tuple[CaseEvaluation, ...]
    problems: tuple[Problem, ...]
    rules: EvaluationRules
    labels_from: str
    is_synthetic: bool
    trained_on: tuple[str, ...] = ()

    @functools.cached_property
    def reports(self) -> dict[str, RegionReport]:
        """Class by class over the cases."""
        return summarise_evaluations([case.regions for case in self.cases])

    @property
    def stamp(self) -> str:
        """The phantom's stamp, or ""."""
        return STAMP if self.is_synthetic else ""
