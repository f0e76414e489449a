"""SciPy's paired t-test and permutation test are the oracles; ratios are counted one by one."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats

from segfocal.metrics.patient_sums import (
    Estimate,
    PatientSums,
    difference,
    estimate,
    holm,
    permutation_p_value,
)


def means(values):
    return PatientSums.of(range(len(values)), values)


def paired(rng, n):
    first = rng.beta(8, 2, n)
    return first, np.clip(first + rng.normal(0.02, 0.05, n), 0, 1)


def counted(numerators, denominators):
    return sum(numerators) / sum(denominators)


@pytest.mark.parametrize("n", [2, 3, 9, 40])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_of_a_mean_the_interval_is_students(n, level):
    first, second = paired(np.random.default_rng(n), n)
    found = estimate(means(first), level=level)
    expected = scipy.stats.ttest_1samp(first, 0).confidence_interval(level)
    assert (found.value, found.num_patients) == (pytest.approx(first.mean()), n)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    apart = difference(means(first), means(second), level=level)
    expected = scipy.stats.ttest_rel(second, first).confidence_interval(level)
    assert apart.value == pytest.approx(second.mean() - first.mean())
    assert (apart.low, apart.high) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("n", [2, 5, 11, 15])
def test_the_p_value_is_scipys_exact_one(n):
    first, second = paired(np.random.default_rng(n), n)
    expected = scipy.stats.permutation_test(
        (second, first),
        lambda a, b, axis: (a - b).mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert permutation_p_value(means(first), means(second)) == pytest.approx(expected.pvalue)
    assert permutation_p_value(means(second), means(first)) == pytest.approx(expected.pvalue)


def test_of_many_patients_the_p_value_is_that_of_a_normal_distribution():
    rng = np.random.default_rng(1)
    first, second = paired(rng, 300)
    second -= (second - first).mean() - 0.0065
    shift = second - first
    z = shift.sum() / math.sqrt((shift**2).sum())
    p = permutation_p_value(means(first), means(second))
    assert p == pytest.approx(2 * scipy.stats.norm.sf(z), abs=0.005)
    assert 0.01 < p < 0.1
    assert p == permutation_p_value(means(first), means(second))


def test_a_p_value_of_drawn_exchanges_is_never_zero():
    first = np.linspace(0.2, 0.4, 30)
    assert permutation_p_value(means(first), means(first + 0.5)) == 1 / 20_000


def test_equal_methods_are_not_apart():
    same = [0.1, 0.7, 0.3]
    assert permutation_p_value(means(same), means(same)) == 1
    assert difference(means(same), means(same)) == Estimate(0, 0, 0, 3)


def test_rounding_does_not_part_exchanges_that_are_as_far():
    """.4 - .4 + .4, with any signs, is .4 or 1.2; in binary some are a little less than others."""
    assert permutation_p_value(means([0.0, 0.7, 0.0]), means([0.4, 0.3, 0.4])) == 1
    first = np.full(6, 0.1)
    second = first + np.array([0.1, 0.1, 0.1, 0.1, 0.1, -0.1])
    assert permutation_p_value(means(first), means(second)) == pytest.approx(2 * (1 + 6) / 64)


@pytest.mark.parametrize("num_classes", [1, 3])
def test_ratios_of_counts_are_those_of_all_cases_together(num_classes):
    """F1 of lesions, and its mean over classes: left out and exchanged patient by patient."""
    rng = np.random.default_rng(num_classes)
    num_patients = 7
    tables = rng.integers(0, 5, (2, 2, num_classes, num_patients))
    tables[:, 1] += 1
    (first, second) = (
        PatientSums.stacked(
            [PatientSums.of(range(num_patients), *pair) for pair in zip(*table, strict=True)]
        )
        for table in tables
    )

    def measured(which, patients):
        """`which` is the method that each patient's counts are taken of."""
        ratios = [
            counted(
                [tables[w, 0, k, p] for w, p in zip(which, patients, strict=True)],
                [tables[w, 1, k, p] for w, p in zip(which, patients, strict=True)],
            )
            for k in range(num_classes)
        ]
        return sum(ratios) / len(ratios)

    everyone = range(num_patients)
    apart = measured([1] * 7, everyone) - measured([0] * 7, everyone)
    assert first.value == pytest.approx(measured([0] * 7, everyone))
    far = difference(first, second)
    assert far.value == pytest.approx(apart)
    without = [
        measured([1] * 6, others) - measured([0] * 6, others)
        for others in itertools.combinations(everyone, 6)
    ]
    error = math.sqrt(6 * np.var(without))  # (n - 1) / n times the sum of squares
    assert far.high - far.value == pytest.approx(scipy.stats.t.ppf(0.975, 6) * error)
    exchanges = list(itertools.product((0, 1), repeat=7))
    as_far = [
        abs(measured([1 - e for e in ex], everyone) - measured(ex, everyone)) >= abs(apart) - 1e-9
        for ex in exchanges
    ]
    assert permutation_p_value(first, second) == pytest.approx(sum(as_far) / len(exchanges))


def test_cases_of_one_patient_are_one():
    """Two scans that say the same say it once: as one scan a patient, but for the count."""
    values = [0.5, 0.9, 0.6, 0.8]
    twice = PatientSums.of([0, 0, 1, 1, 2, 2, 3, 3], np.repeat(values, 2))
    assert dataclasses.astuple(estimate(twice)) == pytest.approx(
        dataclasses.astuple(estimate(means(values)))
    )
    assert permutation_p_value(twice, PatientSums.of([0, 0, 1, 1, 2, 2, 3, 3], [0.4] * 8)) == 1 / 8


def test_patients_come_in_any_order():
    mixed = PatientSums.of(["b", "a", "b", "c"], [0.2, 0.5, 0.4, 0.9])
    np.testing.assert_allclose(mixed.numerator, [[0.6], [0.5], [0.9]])
    np.testing.assert_array_equal(mixed.denominator, [[2], [1], [1]])


def test_cases_without_a_value_are_in_no_mean():
    sums = PatientSums.of("abcd", [0.5, math.nan, 0.7, 0.6])
    assert estimate(sums) == estimate(means([0.5, 0.7, 0.6]))
    assert estimate(sums).num_patients == 3
    assert PatientSums.of("aab", [0.5, math.nan, 0.75]).value == 0.625


def test_without_enough_there_is_no_interval():
    one = estimate(means([0.4]))
    assert (one.value, one.num_patients) == (0.4, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    nothing = estimate(means([math.nan]))
    assert math.isnan(nothing.value)
    assert math.isnan(permutation_p_value(means([math.nan]), means([math.nan])))
    # without the one patient who has lesions there is no share of them to measure
    single = PatientSums.of("abc", [1, 0, 0], [2, 0, 0])
    other = PatientSums.of("abc", [1, 0, 0], [2, 3, 0])
    assert math.isnan(difference(single, other).low)
    assert not math.isnan(difference(single, other).value)


def test_what_is_not_defined_after_an_exchange_speaks_for_chance():
    """Only one method made something up in each patient: exchanged, one of them has nothing."""
    first = PatientSums.of("ab", [0, 1], [0, 1])
    second = PatientSums.of("ab", [0, 0], [1, 0])
    assert permutation_p_value(first, second) == 1


def test_intervals_stay_within_what_can_be():
    wide = Estimate(0.9, 0.7, 1.1, 5)
    assert wide.within(0, 1) == Estimate(0.9, 0.7, 1, 5)
    assert Estimate(0.1, -0.1, 0.2, 5).within(0, math.inf).low == 0
    assert math.isnan(Estimate(0.1, math.nan, math.nan, 1).within(0, 1).low)


def test_holms_adjustment_is_his():
    """Written out: the least p times 4, the next times 3 ... never less than the one before."""
    assert holm([0.02, 0.005, 0.5, 0.02]) == pytest.approx([0.06, 0.02, 0.5, 0.06])
    assert holm([0.7, 0.6]) == [1, 1]
    with_none = holm([0.01, math.nan, 0.04])
    assert with_none[0] == pytest.approx(0.02)
    assert math.isnan(with_none[1])
    assert with_none[2] == pytest.approx(0.04)
    assert holm([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("num_patients", [8, 30])
def test_intervals_hold_the_truth_and_the_test_seldom_errs(num_patients):
    """Lesions found by chance, two scans a patient, both methods alike: 95% and 5%."""
    rng = np.random.default_rng(num_patients)
    patients = np.repeat(np.arange(num_patients), 2)
    rounds, held, rejected, held_by_cases = 500, 0, 0, 0
    for _ in range(rounds):
        chance = np.repeat(rng.beta(4, 2, num_patients), 2)
        lesions = rng.poisson(4, 2 * num_patients)
        methods = [
            (rng.binomial(lesions, np.clip(chance + skill[patients], 0, 1)), lesions)
            for skill in rng.normal(0, 0.15, (2, num_patients))
        ]
        first, second = (PatientSums.of(patients.tolist(), *counts) for counts in methods)
        found = difference(first, second)
        held += found.low <= 0 <= found.high
        if num_patients < 10:
            rejected += permutation_p_value(first, second) <= 0.05
        alone = difference(*(PatientSums.of(range(2 * num_patients), *c) for c in methods))
        held_by_cases += alone.low <= 0 <= alone.high
    assert 0.925 <= held / rounds <= 0.98
    assert rejected / rounds <= 0.07
    assert held_by_cases < held - 10
