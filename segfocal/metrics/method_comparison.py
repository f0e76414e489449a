"""Methods beside each other on the same cases, measure by measure and class by class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from segfocal.metrics.comparison_measures import MEASURES, CaseClass, Measure, Terms
from segfocal.metrics.patient_sums import (
    Estimate,
    PatientSums,
    difference,
    estimate,
    holm,
    permutation_p_value,
)

CaseTable = Mapping[str, Mapping[str, CaseClass | None]]
"""Case to class to scores; None where the case was not annotated for the class."""

MEAN = "mean of classes"

LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A method beside the baseline.

    Attributes:
        estimate: How much greater its measure is.
        p_value: Of the permutation test; NaN where there is nothing to test.
        p_adjusted: The same after Holm, over all classes and methods of the measure.
        better: Cases in which it is better than the baseline.
        same: Those in which it is as good.
        worse: Those in which it is worse.
    """

    estimate: Estimate
    p_value: float
    p_adjusted: float
    better: int
    same: int
    worse: int


@dataclass(frozen=True)
class ClassComparison:
    """One class by one measure.

    Attributes:
        per_case: Method to case to the measure of that case alone, for the cases that say something
            of it; none for the mean of the classes.
        values: Method to its measure.
        differences: Every method but the baseline to how far it is from that.
    """

    per_case: Mapping[str, Mapping[str, float]]
    values: Mapping[str, Estimate]
    differences: Mapping[str, Difference]

    @property
    def num_cases(self) -> int:
        """Cases that say something of it; 0 for the mean of the classes."""
        return len(next(iter(self.per_case.values()), ()))


def compare_methods(
    methods: Mapping[str, CaseTable],
    baseline: str,
    patients: Mapping[str, str],
    measures: Sequence[str],
) -> dict[str, dict[str, ClassComparison]]:
    """Compares every method with the baseline, on the same cases.

    A case has a part in a class where the reference or any method's prediction holds it; a method
    that rightly left it out where another made it up has the best value there (Dice 1, 0 mm).

    Args:
        methods: Name to case to class to scores, with the same classes; at least one.
        baseline: The name of one of them.
        patients: Each case to compare to its patient.
        measures: Keys of `MEASURES`.

    Returns:
        Measure to class to numbers; `MEAN` behind several classes.
    """
    return {key: _by_measure(MEASURES[key], methods, baseline, patients) for key in measures}


def _by_measure(
    measure: Measure,
    methods: Mapping[str, CaseTable],
    baseline: str,
    patients: Mapping[str, str],
) -> dict[str, ClassComparison]:
    classes = dict.fromkeys(
        name for table in methods.values() for case in patients for name in table[case]
    )
    by_class = {name: _case_terms(measure, name, methods, patients) for name in classes}
    sums = {
        name: {
            method: PatientSums.of(list(patients.values()), *zip(*of_case.values(), strict=True))
            for method, of_case in terms.items()
        }
        for name, terms in by_class.items()
    }
    results = {name: _compared(measure, sums[name], baseline, by_class[name]) for name in by_class}
    if len(results) > 1:
        # The same classes for all methods: one that one of them has no value of is in no mean.
        held = [
            parts for parts in sums.values() if all(p.denominator.any() for p in parts.values())
        ]
        if held:
            stacked = {
                method: PatientSums.stacked([parts[method] for parts in held]) for method in held[0]
            }
            results[MEAN] = _compared(measure, stacked, baseline, {})
    return _adjusted(results)


def _case_terms(
    measure: Measure, name: str, methods: Mapping[str, CaseTable], patients: Iterable[str]
) -> dict[str, dict[str, Terms]]:
    """Method to case to its terms of a class; (0, 0) where it has none."""
    terms: dict[str, dict[str, Terms]] = {method: {} for method in methods}
    for case in patients:
        found = {}
        for method, table in methods.items():
            scores = table[case].get(name)
            found[method] = (0.0, 0.0) if scores is None else measure.terms(scores)
        is_held = any(denominator for _, denominator in found.values())
        for method, (numerator, denominator) in found.items():
            if is_held and not denominator and not measure.is_pooled:
                numerator, denominator = measure.nothing, 1.0
            terms[method][case] = (numerator, denominator)
    return terms


def _compared(
    measure: Measure,
    sums: Mapping[str, PatientSums],
    baseline: str,
    terms: Mapping[str, Mapping[str, Terms]],
) -> ClassComparison:
    """Estimates and differences; cases one by one where terms are given."""
    spoken = [
        case
        for case in next(iter(terms.values()), ())
        if any(of_case[case][1] for of_case in terms.values())
    ]
    per_case = {
        method: {case: measure.of_terms(of_case[case]) for case in spoken}
        for method, of_case in terms.items()
    }
    highest = measure.bounds[1]
    good = 1 if measure.higher_is_better else -1
    differences = {}
    for method in sums:
        if method == baseline:
            continue
        pairs = [(per_case[method][case], per_case[baseline][case]) for case in spoken]
        signs = [(one > other) - (one < other) for one, other in pairs]
        p_value = permutation_p_value(sums[baseline], sums[method])
        differences[method] = Difference(
            difference(sums[baseline], sums[method], level=LEVEL).within(-highest, highest),
            p_value,
            p_value,
            better=signs.count(good),
            same=signs.count(0),
            worse=signs.count(-good),
        )
    estimates = {
        method: estimate(parts, level=LEVEL).within(*measure.bounds)
        for method, parts in sums.items()
    }
    return ClassComparison(per_case, estimates, differences)


def _adjusted(results: Mapping[str, ClassComparison]) -> dict[str, ClassComparison]:
    """Holm over all classes and methods of one measure."""
    places = [(name, method) for name, one in results.items() for method in one.differences]
    adjusted = dict(
        zip(
            places,
            holm([results[name].differences[method].p_value for name, method in places]),
            strict=True,
        )
    )
    return {
        name: replace(
            one,
            differences={
                method: replace(d, p_adjusted=adjusted[name, method])
                for method, d in one.differences.items()
            },
        )
        for name, one in results.items()
    }
