"""What an evaluation found."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segfocal.data.defects import Problem
from segfocal.data.phantom.stamp import STAMP
from segfocal.evaluation.case import CaseEvaluation, EvaluationRules
from segfocal.metrics.evaluation_summary import RegionReport, summarise_evaluations
from segfocal.metrics.lesion_sizes import SIZE_EDGES_MM3, SizeBin, lesions_by_size
from segfocal.metrics.probability_evaluation import CurveReport, summarise_probabilities
from segfocal.metrics.score_bins import ScoreHistogram


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
        probabilities_from: The folder of the probabilities; None where none were looked at.
        histograms: Class to the scores of all cases, where there are probabilities.
        lesion_edges_mm3: Volumes that part lesions by size.
    """

    cases: tuple[CaseEvaluation, ...]
    problems: tuple[Problem, ...]
    rules: EvaluationRules
    labels_from: str
    is_synthetic: bool
    trained_on: tuple[str, ...] = ()
    probabilities_from: Path | None = None
    histograms: Mapping[str, ScoreHistogram] = field(default_factory=dict)
    lesion_edges_mm3: Sequence[float] = SIZE_EDGES_MM3

    @functools.cached_property
    def reports(self) -> dict[str, RegionReport]:
        """Class by class over the cases."""
        return summarise_evaluations([case.regions for case in self.cases])

    @functools.cached_property
    def lesion_sizes(self) -> dict[str, tuple[SizeBin, ...]]:
        """Class by class, the lesions of all cases by their volume."""
        return {
            name: lesions_by_size(
                ((case.regions[name].match, case.voxel_mm3) for case in self.cases),
                self.lesion_edges_mm3,
            )
            for name in self.reports
        }

    @functools.cached_property
    def curves(self) -> dict[str, CurveReport]:
        """The probabilities of each class over the cases that have some; {} where none has."""
        return {
            name: summarise_probabilities(
                [case.curves[name] for case in self.cases if name in case.curves],
                self.histograms[name],
            )
            for name in self.rules.targets
            if name in self.histograms
        }

    @property
    def stamp(self) -> str:
        """The phantom's stamp, or ""."""
        return STAMP if self.is_synthetic else ""


class HistogramPool:
    """Adds the scores of cases up as they come, so that none has to be kept.

    Attributes:
        histograms: Class to the sum so far.
    """

    def __init__(self) -> None:
        self.histograms: dict[str, ScoreHistogram] = {}

    def take(self, case: CaseEvaluation) -> CaseEvaluation:
        """The case without its histograms, which are added to the others."""
        for name, curves in case.curves.items():
            if curves.histogram is not None:
                so_far = self.histograms.get(name, ScoreHistogram.empty())
                self.histograms[name] = so_far + curves.histogram
        kept = {name: curves.without_histogram() for name, curves in case.curves.items()}
        return dataclasses.replace(case, curves=kept)
