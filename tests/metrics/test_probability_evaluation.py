import math

import numpy as np
import pytest
import sklearn.metrics

from segfocal.metrics.calibration import THRESHOLDS
from segfocal.metrics.overlap import dice
from segfocal.metrics.probability_evaluation import (
    evaluate_probabilities,
    summarise_probabilities,
)
from segfocal.metrics.score_bins import ScoreHistogram


def drawn(seed, *, share=0.2):
    rng = np.random.default_rng(seed)
    ref = rng.random((7, 6, 5)) < share
    probs = np.clip(0.4 * ref + rng.random(ref.shape) * 0.6, 0, 1).round(2)
    return probs.astype(np.float32), ref


CASES = [drawn(0), drawn(1), drawn(2, share=0), drawn(3, share=0)]


def test_pooled_measures_are_those_of_all_voxels_together():
    report = summarise_probabilities([evaluate_probabilities(*case) for case in CASES])
    probs, ref = (
        np.concatenate([one.ravel() for one in part]) for part in zip(*CASES, strict=True)
    )
    assert report.pooled_auroc.value == pytest.approx(sklearn.metrics.roc_auc_score(ref, probs))
    expected = sklearn.metrics.average_precision_score(ref, probs)
    assert report.pooled_average_precision.value == pytest.approx(expected)
    assert report.table.brier == pytest.approx(np.mean((probs.astype(float) - ref) ** 2))


def test_cases_without_the_class_are_counted_and_in_no_mean_of_areas():
    report = summarise_probabilities([evaluate_probabilities(*case) for case in CASES])
    assert (report.n, report.n_present, report.auroc.n, report.average_precision.n) == (4, 2, 2, 2)
    expected = [sklearn.metrics.roc_auc_score(ref.ravel(), p.ravel()) for p, ref in CASES[:2]]
    assert report.auroc.mean == pytest.approx(np.mean(expected))
    assert (report.brier.n, report.ece.n) == (4, 4)


def test_mean_dice_by_threshold_is_what_evaluating_the_masks_would_say():
    report = summarise_probabilities([evaluate_probabilities(*case) for case in CASES])
    for place, threshold in enumerate(THRESHOLDS):
        scores = [dice(probs > float(threshold), ref) for probs, ref in CASES]
        defined = [score for score in scores if not math.isnan(score)]
        assert report.mean_dice[place] == pytest.approx(np.mean(defined))
        assert report.num_dice[place] == len(defined)
    assert report.num_dice[0] == 4
    assert report.num_dice[-1] == 2
    assert report.best_dice == pytest.approx(report.mean_dice.max())
    assert report.mean_dice[round(100 * report.best_threshold) - 1] == report.best_dice
    assert report.dice_at_half == report.mean_dice[49]


def test_histograms_may_be_added_up_beforehand():
    cases = [evaluate_probabilities(*case) for case in CASES]
    whole = summarise_probabilities(cases)
    added = sum((case.histogram for case in cases), ScoreHistogram.empty())
    other = summarise_probabilities([case.without_histogram() for case in cases], added)
    assert other.pooled_auroc == whole.pooled_auroc
    assert other.pooled_average_precision == whole.pooled_average_precision
    assert cases[0].without_histogram().histogram is None


def test_no_case_and_no_voxel_have_no_measure():
    for cases in ([], [evaluate_probabilities(*CASES[0], np.zeros((7, 6, 5), bool))]):
        report = summarise_probabilities(cases)
        assert (report.n, report.n_present, report.auroc.n) == (len(cases), 0, 0)
        assert math.isnan(report.pooled_auroc.value)
        assert math.isnan(report.best_threshold)
        assert np.isnan(report.mean_dice).all()


def test_the_candidate_threshold_reaches_the_lesions():
    probs = np.array([[0.4, 0.0, 0.2]])
    case = evaluate_probabilities(probs, probs > 0, candidate_threshold=0.3)
    assert case.candidates.lesions.tolist() == [0.4, 0.0]
