import numpy as np
import pytest

from segfocal.metrics.threshold_baseline import (
    EDGES,
    apply_thresholds,
    fit_thresholds,
    standardise,
    threshold_baseline,
)

NAMES, CLASSES = ("A", "B"), ((1, 2), (2,))


def make_case(seed, shape=(9, 8, 7)):
    rng = np.random.default_rng(seed)
    classes = rng.choice([0, 1, 2, 255], shape, p=[0.6, 0.2, 0.15, 0.05]).astype(np.uint8)
    image = rng.normal(100, 10, (3, *shape))
    image[0] += 15 * np.isin(classes, (1, 2))
    image[1] -= 25 * (classes == 2)
    outside = rng.random(shape) < 0.2
    image[:, outside] = 0
    image[2, rng.random(shape) < 0.2] = 0  # 0 in one channel alone is foreground
    classes[outside] = 0
    return image.astype(np.float32), classes


def brute_force(train, members):
    """Every channel, side and edge, one comparison a time."""
    best = (-1.0, None)
    num_channels = train[0][0].shape[0]
    for channel in range(num_channels):
        for above in (True, False):
            for edge in EDGES:
                scores = []
                for image, classes in train:
                    foreground = (image != 0).any(0)
                    inner = image[channel][foreground].astype(np.float64)
                    values = ((image[channel] - inner.mean()) / inner.std()).astype(np.float32)
                    pred = foreground & ((values >= edge) if above else (values < edge))
                    known = classes != 255
                    ref = np.isin(classes, members)
                    if ref.any():
                        both = (pred & ref & known).sum()
                        scores.append(2 * both / ((pred & known).sum() + ref.sum()))
                if scores and np.mean(scores) > best[0]:
                    best = (float(np.mean(scores)), (channel, above, float(edge)))
    return best


def test_the_chosen_threshold_is_the_best_of_a_brute_force_search():
    train = [make_case(seed) for seed in range(3)]
    train[1][1][train[1][1] == 2] = 0
    for rule, members in zip(fit_thresholds(train, NAMES, CLASSES), CLASSES, strict=True):
        dice, where = brute_force(train, members)
        assert rule.dice == pytest.approx(dice, abs=1e-9)
        assert (rule.channel, rule.above, rule.value) == where


def test_a_dark_lesion_is_found_from_below_and_a_bright_one_from_above():
    rules = fit_thresholds([make_case(seed) for seed in range(3)], NAMES, CLASSES)
    assert [(rule.channel, rule.above) for rule in rules] == [(0, True), (1, False)]


def test_validation_cases_are_scored_by_rules_chosen_on_the_training_cases_alone():
    train = [make_case(seed) for seed in range(3)]
    val = [(-image, classes) for image, classes in (make_case(8), make_case(9))]
    result = threshold_baseline(train, val, NAMES, CLASSES, val_names=("x", "y"))
    assert result.thresholds == fit_thresholds(train, NAMES, CLASSES)
    assert [score.case for score in result.scores] == ["x", "y"]
    assert {rule.above for rule in result.thresholds} == {True, False}
    for (image, classes), score in zip(val, result.scores, strict=True):
        foreground = (image != 0).any(0)
        for rule, members, name in zip(result.thresholds, CLASSES, NAMES, strict=True):
            inner = image[rule.channel][foreground].astype(np.float64)
            values = ((image[rule.channel] - inner.mean()) / inner.std()).astype(np.float32)
            mask = foreground & (values >= rule.value if rule.above else values < rule.value)
            known, ref = classes != 255, np.isin(classes, members)
            expected = 2 * (mask & ref & known).sum() / ((mask & known).sum() + ref.sum())
            assert score.regions[name].dice == pytest.approx(expected)


def test_standardising_twice_changes_nothing():
    image, _ = make_case(0)
    foreground = (image != 0).any(0)
    once = standardise(image, foreground)
    np.testing.assert_allclose(standardise(once, foreground), once, atol=1e-5)


def test_background_zeros_are_never_lesion():
    image, classes = make_case(0)
    masks = apply_thresholds(image, fit_thresholds([(image, classes)], NAMES, CLASSES))
    assert not masks[:, ~(image != 0).any(0)].any()


def test_an_image_that_is_0_everywhere_gives_empty_masks():
    train = [make_case(0)]
    blank = (np.zeros((3, 4, 4, 4), np.float32), np.zeros((4, 4, 4), np.uint8))
    result = threshold_baseline(train, [blank], NAMES, CLASSES)
    assert result.scores[0].regions["A"].pred_voxels == 0


def test_no_training_case_is_refused():
    with pytest.raises(ValueError, match=r"^train must hold at least one case"):
        fit_thresholds([], NAMES, CLASSES)
