"""How sure a mean over cases is, and the difference of two methods on the same ones."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

Floats = npt.NDArray[np.float64]

_MAX_EXACT_PATIENTS = 15
"""Up to here every exchange of two methods is tried: 2^14, as its mirror image says the same."""

_NUM_RANDOM = 20_000
"""Exchanges where there are more patients, the one that was observed among them."""

_ROWS = 1 << 11
_SEED = 20
_ROUNDING = 1e-9


@dataclass(frozen=True)
class PatientSums:
    """A measure over P patients as sum(numerator) / sum(denominator), averaged over K classes.

    Means are such a ratio (values, and 1 where there is one), and so are rates of lesions of all
    cases together (2 found, and lesions + found + false positives).

    Attributes:
        numerator: `(P, K)`.
        denominator: `(P, K)`, 0 where a patient has nothing of a class.
    """

    numerator: Floats
    denominator: Floats

    @classmethod
    def of(
        cls,
        patients: Sequence[Hashable],
        numerator: npt.ArrayLike,
        denominator: npt.ArrayLike | None = None,
    ) -> PatientSums:
        """Adds up what belongs to one patient, for one class.

        Args:
            patients: The patient of each of N cases.
            numerator: `(N,)`; NaN where the case has no value.
            denominator: `(N,)`, 0 where the numerator is NaN; None is 1 for each case with a
                value, which makes a mean.

        Example:
            >>> PatientSums.of(["a", "b", "a"], [0.25, 1.0, 0.25]).value
            0.5
        """
        values = np.asarray(numerator)
        known = ~np.isnan(values)
        row_of = {patient: row for row, patient in enumerate(dict.fromkeys(patients))}
        rows = [row_of[patient] for patient in patients]
        sums = np.zeros((2, len(row_of), 1))
        np.add.at(sums[0, :, 0], rows, np.where(known, values, 0))
        np.add.at(sums[1, :, 0], rows, known if denominator is None else denominator)
        return cls(*sums)

    @classmethod
    def stacked(cls, classes: Sequence[PatientSums]) -> PatientSums:
        """Several classes over the same patients, for the mean of the classes."""
        return cls(
            np.concatenate([one.numerator for one in classes], axis=1),
            np.concatenate([one.denominator for one in classes], axis=1),
        )

    @property
    def value(self) -> float:
        """The measure over all patients; NaN with nothing to divide by."""
        return float(_ratio(self.numerator.sum(axis=0), self.denominator.sum(axis=0)))

    def without_each(self) -> Floats:
        """The measure without each patient in turn, `(P,)`."""
        return _ratio(
            self.numerator.sum(axis=0) - self.numerator,
            self.denominator.sum(axis=0) - self.denominator,
        )

    @property
    def known(self) -> npt.NDArray[np.bool_]:
        """Patients that have something of a class, `(P,)`."""
        return np.asarray(self.denominator.sum(axis=1) > 0)

    def only(self, patients: npt.NDArray[np.bool_]) -> PatientSums:
        """Some of the patients."""
        return PatientSums(self.numerator[patients], self.denominator[patients])


@dataclass(frozen=True)
class Estimate:
    """A number and where it may lie.

    Attributes:
        value: The measure, or the difference of two; NaN where it is not defined.
        low: Lower end of the confidence interval; NaN where there is none.
        high: Its upper end.
        num_patients: Patients behind it.
    """

    value: float
    low: float
    high: float
    num_patients: int

    def within(self, least: float, most: float) -> Estimate:
        """The same, its interval without what the measure cannot be."""
        low, high = (min(max(end, least), most) for end in (self.low, self.high))
        return replace(self, low=low, high=high)


def estimate(sums: PatientSums, *, level: float = 0.95) -> Estimate:
    """A measure with its confidence interval over patients.

    The interval is that of the delete-one-patient jackknife with Student's t (Efron and
    Tibshirani 1993, chapter 11). With one case a patient and a mean it is the textbook's
    `mean +- t s / sqrt(n)`; cases of one patient are not taken for independent ones.

    Args:
        sums: The measure, patient by patient.
        level: How often the interval shall hold the true value.

    Example:
        >>> e = estimate(PatientSums.of("abcd", [0.7, 0.8, 0.8, 0.9]))
        >>> round(e.value, 3), round(e.low, 3), round(e.high, 3)
        (0.8, 0.67, 0.93)
    """
    sums = sums.only(sums.known)
    return _jackknife(sums.value, sums.without_each(), level)


def difference(first: PatientSums, second: PatientSums, *, level: float = 0.95) -> Estimate:
    """How much greater the second method's measure is, with its interval over patients.

    Args:
        first: The one method, patient by patient.
        second: The other, over the same patients and classes.
        level: As in `estimate`.
    """
    first, second = _with_anything(first, second)
    without = second.without_each() - first.without_each()
    return _jackknife(second.value - first.value, without, level)


def permutation_p_value(first: PatientSums, second: PatientSums) -> float:
    """How often chance alone would set two methods as far apart.

    If neither is better, their results of a patient could as well be exchanged. All exchanges
    are tried up to 15 patients, else 20,000 drawn with a fixed seed (p is then never below
    1 / 20,000). Two-sided; with one class and one case a patient this is
    `scipy.stats.permutation_test` of the mean difference with `permutation_type="samples"`.

    Args:
        first: The one method, patient by patient.
        second: The other, over the same patients and classes.

    Returns:
        The p-value, not adjusted for other tests; NaN where there is no difference to test.
    """
    first, second = _with_anything(first, second)
    observed = abs(second.value - first.value)
    if math.isnan(observed):
        return math.nan
    least = observed - _ROUNDING
    as_far, tried = 0, 0
    for exchanged in _exchanges(len(first.numerator)):
        moved = [
            exchanged @ (b - a)
            for a, b in (
                (first.numerator, second.numerator),
                (first.denominator, second.denominator),
            )
        ]
        one, other = (
            _ratio(
                sums.numerator.sum(axis=0) + sign * moved[0],
                sums.denominator.sum(axis=0) + sign * moved[1],
            )
            for sums, sign in ((first, 1), (second, -1))
        )
        # What is not defined speaks for chance: the test does not get sharper by it.
        as_far += int(np.count_nonzero(~(np.abs(other - one) < least)))
        tried += len(exchanged)
    return as_far / tried


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for there being several (Holm 1979); NaN is no test and stays.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    order = sorted((p, at) for at, p in enumerate(p_values) if not math.isnan(p))
    adjusted = list(p_values)
    highest = 0.0
    for rank, (p, at) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[at] = highest
    return adjusted


def _with_anything(first: PatientSums, second: PatientSums) -> tuple[PatientSums, PatientSums]:
    held = first.known | second.known
    return first.only(held), second.only(held)


def _jackknife(value: float, without: Floats, level: float) -> Estimate:
    n = len(without)
    if math.isnan(value) or np.isnan(without).any():
        return Estimate(value, math.nan, math.nan, n)
    error = math.sqrt((n - 1) / n * float(((without - without.mean()) ** 2).sum()))
    reach = float(stdtrit(n - 1, 0.5 + level / 2)) * error
    return Estimate(value, value - reach, value + reach, n)


def _exchanges(num_patients: int) -> Iterator[Floats]:
    """Rows of 0 and 1, 1 where two methods' results of a patient are exchanged."""
    if num_patients <= _MAX_EXACT_PATIENTS:
        numbers = np.arange(1 << (num_patients - 1))[:, None]
        yield (numbers >> np.arange(num_patients) & 1).astype(np.float64)
        return
    rng = np.random.default_rng(_SEED)
    yield np.zeros((1, num_patients))
    for start in range(1, _NUM_RANDOM, _ROWS):
        rows = min(_ROWS, _NUM_RANDOM - start)
        yield rng.integers(0, 2, (rows, num_patients)).astype(np.float64)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    """`(..., K)` to `(...)`: the mean over classes; NaN where one has nothing to divide by."""
    with np.errstate(invalid="ignore"):
        ratios: Floats = np.where(denominator > 0, numerator / denominator, np.nan)
    return np.asarray(ratios.mean(axis=-1))
