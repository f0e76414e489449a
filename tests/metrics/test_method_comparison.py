"""Tables of scores written by hand; the numbers beside each other by hand, too, or by SciPy."""

import math

import pytest
import scipy.stats

from segfocal.metrics.comparison_measures import MEASURES, CaseClass
from segfocal.metrics.lesionwise import LesionCounts
from segfocal.metrics.method_comparison import MEAN, compare_methods

NAN = math.nan


def scores(dice=NAN, counts=(0, 0, 0), **more):
    return CaseClass(10, LesionCounts(*counts), {"dice": dice, **more})


def table(**cases):
    """`c1=0.5`: a class `tumour` with that Dice."""
    return {case: {"tumour": scores(dice)} for case, dice in cases.items()}


def alone(cases):
    return {case: case for case in cases}


def compared(first, second, measure="dice", patients=None):
    methods = {"first": first, "second": second}
    return compare_methods(methods, "first", patients or alone(first), [measure])[measure]


def test_a_mean_and_its_difference_are_scipys():
    first = table(c1=0.5, c2=0.7, c3=0.9, c4=0.6)
    second = table(c1=0.6, c2=0.6, c3=0.95, c4=0.6)
    found = compared(first, second)
    assert list(found) == ["tumour"]
    tumour = found["tumour"]
    assert tumour.num_cases == 4
    assert tumour.values["first"].value == pytest.approx(0.675)
    apart = tumour.differences["second"]
    assert list(tumour.differences) == ["second"]
    expected = scipy.stats.ttest_rel([0.6, 0.6, 0.95, 0.6], [0.5, 0.7, 0.9, 0.6])
    interval = expected.confidence_interval()
    assert apart.estimate.value == pytest.approx(0.0125)
    assert (apart.estimate.low, apart.estimate.high) == pytest.approx(tuple(interval))
    assert (apart.better, apart.same, apart.worse) == (2, 1, 1)
    assert (
        apart.p_value == apart.p_adjusted == 1
    )  # no exchange of .1, .1, .05 and 0 gives less than .05


def test_of_distances_less_is_better():
    first = {"c1": {"t": scores(hd95_mm=4.0)}, "c2": {"t": scores(hd95_mm=5.0)}}
    second = {"c1": {"t": scores(hd95_mm=1.0)}, "c2": {"t": scores(hd95_mm=5.5)}}
    apart = compared(first, second, "hd95_mm")["t"].differences["second"]
    assert (apart.better, apart.same, apart.worse) == (1, 0, 1)
    assert apart.estimate.value == pytest.approx(-1.25)


def test_who_rightly_left_a_class_out_has_the_best_value_where_another_made_it_up():
    first = table(c1=0.0, c2=0.8, c3=NAN)
    second = table(c1=NAN, c2=0.8, c3=NAN)
    tumour = compared(first, second)["tumour"]
    assert tumour.per_case == {"first": {"c1": 0.0, "c2": 0.8}, "second": {"c1": 1.0, "c2": 0.8}}
    assert tumour.values["second"].value == pytest.approx(0.9)
    distances = compared(
        {"c1": {"t": scores(hd95_mm=30.0)}}, {"c1": {"t": scores(hd95_mm=NAN)}}, "hd95_mm"
    )["t"]
    assert distances.per_case == {"first": {"c1": 30.0}, "second": {"c1": 0.0}}


def test_a_third_method_counts_for_which_cases_say_something():
    methods = {
        "a": table(c1=NAN, c2=0.5), "b": table(c1=NAN, c2=0.6), "c": table(c1=0.0, c2=0.5)
    }  # fmt: skip
    found = compare_methods(methods, "b", alone(("c1", "c2")), ["dice"])["dice"]["tumour"]
    assert found.num_cases == 2
    assert found.values["a"].value == pytest.approx(0.75)
    assert list(found.differences) == ["a", "c"]
    assert found.differences["c"].estimate.value == pytest.approx((0.5 - 1.6) / 2)


def test_cases_that_were_not_annotated_are_none_of_the_class():
    first = {"c1": {"t": None}, "c2": {"t": scores(0.5)}, "c3": {"t": scores(0.6)}}
    found = compared(first, first)["t"]
    assert (found.num_cases, found.values["first"].num_patients) == (2, 2)
    one_patient = dict.fromkeys(first, "p")
    assert compared(first, first, patients=one_patient)["t"].values["first"].value == 0.55


def test_lesions_are_those_of_all_cases_together():
    """F1: 2 found / (lesions + found + false positives), by hand."""
    first = {"c1": {"t": scores(counts=(3, 2, 1))}, "c2": {"t": scores(counts=(0, 0, 0))}}
    second = {"c1": {"t": scores(counts=(3, 3, 0))}, "c2": {"t": scores(counts=(0, 0, 4))}}
    f1 = compared(first, second, "lesion_f1")["t"]
    assert f1.values["first"].value == pytest.approx(4 / 6)
    assert f1.values["second"].value == pytest.approx(6 / 10)
    assert f1.per_case["first"] == {"c1": pytest.approx(4 / 6), "c2": 1.0}
    assert f1.per_case["second"] == {"c1": 1.0, "c2": 0.0}
    apart = f1.differences["second"]
    assert (apart.better, apart.worse) == (1, 1)
    found = compared(first, second, "sensitivity")["t"]
    assert (found.num_cases, found.values["first"].value) == (1, pytest.approx(2 / 3))
    false = compared(first, second, "false_positives")["t"]
    assert false.values["first"].value == pytest.approx(0.5)
    assert false.values["second"].value == pytest.approx(2.0)
    assert (false.differences["second"].better, false.differences["second"].worse) == (1, 1)


def two_classes(*dice):
    return {
        f"c{number}": {"a": scores(first), "b": scores(second)}
        for number, (first, second) in enumerate(dice)
    }


def test_the_mean_of_the_classes_stands_behind_them():
    first = two_classes((0.5, 0.1), (0.7, 0.3), (0.6, NAN))
    second = two_classes((0.6, 0.3), (0.7, 0.5), (0.8, NAN))
    found = compared(first, second)
    assert list(found) == ["a", "b", MEAN]
    mean = found[MEAN]
    assert mean.values["first"].value == pytest.approx((0.6 + 0.2) / 2)
    assert mean.differences["second"].estimate.value == pytest.approx((0.1 + 0.2) / 2)
    assert mean.values["first"].num_patients == 3
    assert mean.per_case == {}


def test_a_class_that_a_method_has_no_value_of_is_in_no_mean():
    """No case holds a lesion of b, and only the second method made one up."""
    first = {"c1": {"a": scores(counts=(2, 1, 0)), "b": scores()}}
    second = {"c1": {"a": scores(counts=(2, 2, 0)), "b": scores(counts=(0, 0, 1))}}
    found = compared(first, second, "lesion_f1")
    assert math.isnan(found["b"].values["first"].value)
    assert found["b"].values["second"].value == 0
    assert found[MEAN].values["second"].value == 1
    nothing = {"c1": {"a": scores(), "b": scores()}}
    assert list(compared(nothing, nothing)) == ["a", "b"]


def test_p_values_are_adjusted_over_a_measure():
    """Ten patients all better in both classes: 2/1024 each, three tests."""
    first = two_classes(*[(0.5, 0.5)] * 10)
    second = two_classes(*[(0.6, 0.7)] * 10)
    found = compared(first, second)
    apart = [one.differences["second"] for one in found.values()]
    assert [one.p_value for one in apart] == [2 / 1024] * 3
    assert [one.p_adjusted for one in apart] == pytest.approx([6 / 1024] * 3)


def test_scans_of_one_patient_are_exchanged_together():
    first = table(s1_a=0.5, s1_b=0.5, s2_a=0.5, s2_b=0.5)
    second = table(s1_a=0.7, s1_b=0.6, s2_a=0.8, s2_b=0.6)
    patients = {case: case[:2] for case in first}
    found = compared(first, second, patients=patients)["tumour"]
    assert found.differences["second"].p_value == 0.5  # of four exchanges two are as far
    assert found.values["first"].num_patients == 2
    assert compared(first, second)["tumour"].differences["second"].p_value == 0.125


def test_intervals_hold_no_value_that_cannot_be():
    first, second = table(c1=1.0, c2=0.95, c3=0.6), table(c1=0.0, c2=0.9, c3=0.1)
    found = compared(first, second)["tumour"]
    assert found.values["first"].high == 1
    assert found.values["second"].low == 0
    assert found.differences["second"].estimate.low == -1
    far = {"c1": {"t": scores(hd95_mm=1.0)}, "c2": {"t": scores(hd95_mm=90.0)}}
    near = {"c1": {"t": scores(hd95_mm=0.0)}, "c2": {"t": scores(hd95_mm=0.0)}}
    distances = compared(far, near, "hd95_mm")["t"]
    assert distances.values["first"].low == 0
    assert distances.values["first"].high > 500
    assert distances.differences["second"].estimate.low < -500


def test_every_measure_says_which_way_is_better():
    lower = {key for key, measure in MEASURES.items() if not measure.higher_is_better}
    assert lower == {"hd95_mm", "assd_mm", "false_positives", "lesion_hd95_mm"}
    bounded = {key for key, measure in MEASURES.items() if measure.bounds == (0, 1)}
    assert bounded == set(MEASURES) - lower
