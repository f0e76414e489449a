import math
from dataclasses import astuple

import numpy as np
import pytest

from segfocal.labels import IGNORE_CLASS
from segfocal.metrics.brats_lesionwise import BRATS_RULES, score_brats_lesions
from segfocal.metrics.case_score import region_masks, score_case
from segfocal.metrics.evaluation import (
    LESION_RULES,
    UNSCORED,
    Measures,
    evaluate_classes,
    evaluate_region,
)
from segfocal.metrics.evaluation_summary import Spread, summarise_evaluations
from segfocal.metrics.surface import surface_score

TARGETS = {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)}
SPACING = (1.0, 1.5, 3.0)


def maps(seed=0, shape=(12, 10, 8)):
    rng = np.random.default_rng(seed)
    reference = np.zeros(shape, np.uint8)
    reference[2:7, 2:8, 1:6], reference[3:6, 3:6, 2:5], reference[4, 4, 3] = 1, 2, 3
    predicted = np.roll(reference, 1, 0)
    predicted[rng.random(shape) < 0.02] = 1
    return predicted, reference


def test_a_region_is_measured_as_each_metric_measures_it():
    predicted, reference = maps()
    reference[:, :, 5:] = IGNORE_CLASS
    measures = Measures(tolerance_mm=1.5)
    got = evaluate_classes(predicted, reference, TARGETS, SPACING, measures)
    masks = region_masks(predicted, list(TARGETS.values()))
    scores = score_case("A", masks, reference, list(TARGETS), list(TARGETS.values()), SPACING)
    valid = reference != IGNORE_CLASS
    for index, (name, members) in enumerate(TARGETS.items()):
        assert got[name].score == scores.regions[name]
        assert got[name].surface == surface_score(
            masks[index], np.isin(reference, members), SPACING, valid, tolerance_mm=1.5
        )
        assert math.isnan(got[name].lesion_dice)


@pytest.mark.parametrize("rules", LESION_RULES[1:])
def test_the_lesions_of_brats_are_those_of_its_rules(rules):
    predicted, reference = maps(1)
    got = evaluate_classes(predicted, reference, TARGETS, SPACING, Measures(lesions=rules))["WT"]
    expected = score_brats_lesions(predicted > 0, reference > 0, SPACING, BRATS_RULES[rules])
    assert got.match == expected.match or str(got.match) == str(expected.match)
    assert (got.lesion_dice, got.lesion_hd95_mm) == (expected.dice, expected.hd95_mm)
    assert got.score.counts == expected.match.counts


def test_what_lies_under_the_ignore_label_changes_nothing():
    predicted, reference = maps()
    reference[:, :, 5:] = IGNORE_CLASS
    other = predicted.copy()
    other[:, :, 5:] = 3
    one, two = (
        evaluate_classes(each, reference, TARGETS, SPACING, Measures())
        for each in (predicted, other)
    )
    assert str(one) == str(two)


def test_a_region_nobody_looked_for_is_not_measured():
    predicted, reference = maps()
    got = evaluate_classes(
        predicted, reference, TARGETS, SPACING, Measures(), annotated=(True, False, True)
    )
    assert got["TC"] is UNSCORED
    assert got["TC"].presence == ""
    assert got["ET"].presence == "both"
    assert summarise_evaluations([got])["TC"].n == 0


def test_another_shape_is_refused():
    predicted, reference = maps()
    with pytest.raises(ValueError, match=r"^predicted and reference must have one shape: got \(11"):
        evaluate_classes(predicted[1:], reference, TARGETS, SPACING, Measures())


def region(pred, ref, **options):
    masks = (np.array(mask, bool).reshape(-1, 1, 1) for mask in (pred, ref))
    return {"a": evaluate_region(*masks, (1.0, 1.0, 1.0), Measures(**options))}


def test_a_missed_lesion_makes_every_mean_worse_and_is_counted():
    right = region([1, 1, 0, 0], [1, 1, 0, 0])
    near = region([0, 1, 1, 0], [1, 1, 0, 0], tolerance_mm=0.5)
    missed = region([0, 0, 0, 0], [1, 1, 0, 0])
    alarm = region([1, 1, 0, 0], [0, 0, 0, 0])
    neither = region([0, 0, 0, 0], [0, 0, 0, 0])
    before = summarise_evaluations([right, near])["a"]
    after = summarise_evaluations([right, near, missed, neither])["a"]
    assert after.hd95_mm.mean > before.hd95_mm.mean
    assert after.assd_mm.mean > before.assd_mm.mean
    assert after.nsd.mean < before.nsd.mean
    assert after.dice.mean < before.dice.mean
    assert after.hd95_both_mm == before.hd95_mm
    assert (after.hd95_mm.n, after.dice.n, after.n) == (3, 3, 4)
    assert (after.n_missed, after.n_false_alarm) == (1, 0)
    report = summarise_evaluations([right, near, missed, alarm, neither])["a"]
    presence = (report.n_both, report.n_missed, report.n_false_alarm, report.n_neither)
    assert presence == (2, 1, 1, 1)
    diagonal = math.sqrt(4**2 + 1 + 1)
    # surface distances 0 and 1 either way: 95 % of the way from one to the other
    assert report.hd95_mm.mean == pytest.approx((0 + 0.95 + 2 * diagonal) / 4)
    assert report.dice.median == pytest.approx(0.25)
    assert (report.counts.lesions, report.counts.found, report.counts.false_positives) == (3, 2, 1)
    assert report.f1 == Spread.of([1, 1, 0, 0])
    assert astuple(report.ref_ml) == pytest.approx((0.0012, 0.002, 5))
    few = summarise_evaluations([right, missed, region([1, 0, 0, 0], [0, 0, 0, 0])])["a"]
    assert astuple(few.pred_ml) == pytest.approx((0.001, 0.001, 3))
    assert (report.lesion_dice.n, report.n_nothing) == (0, 1)


def test_no_case_has_no_summary():
    assert summarise_evaluations([]) == {}
    assert str(Spread.of([])) == "Spread(mean=nan, median=nan, n=0)"
