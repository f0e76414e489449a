"""BraTS 2023's lesion-wise scores, by hand and by the published rules followed word for word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segfocal.metrics.brats_lesionwise import BRATS_RULES, BratsRules, score_brats_lesions
from segfocal.metrics.lesionwise import LesionCounts
from segfocal.metrics.surface_elements import hd95_of_elements

UNIT = (1.0, 1.0, 1.0)
GLI, MET = BRATS_RULES["brats-gli"], BRATS_RULES["brats-met"]
ALL = np.ones((3, 3, 3))


def word_for_word(pred, ref, spacing, rules):
    """Dice, HD95, found, missed, false islands; each lesion dilated by itself in the volume."""
    grow = ndimage.generate_binary_structure(3, 2)
    joined, count = ndimage.label(
        ndimage.binary_dilation(ref, grow, iterations=rules.dilations), ALL
    )
    islands, num_islands = ndimage.label(pred, ALL)
    matched, dices, hd95s, found = set(), [], [], 0
    for index in range(1, count + 1):
        lesion = (joined == index) & ref
        dilated = ndimage.binary_dilation(lesion, grow, iterations=rules.dilations)
        own = {int(i) for i in np.unique(islands[dilated]) if i}
        matched |= own
        if lesion.sum() * np.prod(spacing) <= rules.max_left_out_mm3:
            continue
        part = np.isin(islands, list(own)) & pred
        dices.append(2 * (part & lesion).sum() / (part.sum() + lesion.sum()))
        hd95s.append(hd95_of_elements(part, lesion, spacing) if own else 374.0)
        found += bool(own)
    false = num_islands - len(matched)
    total = len(dices) + false
    if not total:
        return 1.0, 0.0, 0, 0, 0
    hd95 = (sum(hd95s) + 374 * false) / total
    return sum(dices) / total, hd95, found, len(dices) - found, false


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["brats-gli", "brats-met"]))
def test_scores_are_those_of_the_published_rules(seed, name):
    rng = np.random.default_rng(seed)
    shape, spacing = (22, 18, 16), tuple(rng.choice([0.7, 1.0, 2.5], 3))
    field, noise = (ndimage.gaussian_filter(rng.normal(size=shape), width) for width in (1.2, 0.8))
    ref = field > rng.choice([1.5, 2.0, 9.0], p=[0.5, 0.4, 0.1]) * field.std()
    pred = (field + noise * rng.uniform(0, 1)) > rng.choice([1.5, 9]) * field.std()
    got = score_brats_lesions(pred, ref, spacing, BRATS_RULES[name])
    counts = got.match.counts
    numbers = (got.dice, got.hd95_mm, counts.found, counts.missed, counts.false_positives)
    assert numbers == pytest.approx(word_for_word(pred, ref, spacing, BRATS_RULES[name]))


def volume(*boxes, shape=(40, 30, 30)):
    mask = np.zeros(shape, bool)
    for box in boxes:
        mask[tuple(slice(a, b) for a, b in box)] = True
    return mask


FIRST = ((2, 8), (2, 8), (2, 8))  # 216 mm3
SECOND = ((20, 26), (20, 26), (20, 26))  # 216 mm3
SMALL = ((20, 23), (2, 5), (2, 5))  # 27 mm3
AWAY = ((34, 36), (2, 4), (20, 22))


def test_one_perfect_one_missed_one_made_up():
    got = score_brats_lesions(volume(FIRST, AWAY), volume(FIRST, SECOND), UNIT, GLI)
    assert got.dice == pytest.approx((1 + 0) / (2 + 1))
    assert got.hd95_mm == pytest.approx((0 + 374 + 374) / 3)
    assert got.match.counts == LesionCounts(2, 1, 1)
    assert [lesion.found for lesion in got.match.lesions] == [True, False]
    assert [lesion.hd95_mm for lesion in got.match.lesions] == [0, 374]


def test_a_small_lesion_is_left_out_and_its_prediction_is_no_false_positive():
    ref = volume(FIRST, SMALL)
    for pred in (volume(FIRST), volume(FIRST, SMALL)):
        got = score_brats_lesions(pred, ref, UNIT, GLI)
        assert (got.dice, got.hd95_mm, got.match.counts) == (1, 0, LesionCounts(1, 1, 0))
        assert [lesion.scored for lesion in got.match.lesions] == [True, False]
    missed = score_brats_lesions(volume(FIRST), ref, UNIT, MET)
    assert missed.dice == 0.5


@pytest.mark.parametrize(("voxels", "scored"), [(50, False), (51, True)])
def test_50_cubic_millimetres_are_left_out_whatever_a_header_rounds(voxels, scored):
    ref = np.zeros((30, 10, 10), bool)
    ref[2:12, 2:7, 2] = True
    ref[12, 2, 2] = voxels == 51
    for length in (1.0, 1.0000001):
        (lesion,) = score_brats_lesions(ref, ref, (length, 1.0, 1.0), GLI).match.lesions
        assert lesion.scored is scored
    (lesion,) = score_brats_lesions(ref, ref, (1.1, 1.0, 1.0), GLI).match.lesions
    assert lesion.scored


def test_a_false_island_of_one_voxel_costs_as_much_as_a_lesion():
    got = score_brats_lesions(
        volume(FIRST, ((35, 36),) * 1 + ((9, 10),) * 2), volume(FIRST), UNIT, GLI
    )
    assert got.dice == 0.5
    assert got.hd95_mm == 374 / 2


@pytest.mark.parametrize(("gap", "gli", "met"), [(2, 1, 1), (3, 1, 2), (6, 1, 2), (7, 2, 2)])
def test_lesions_whose_dilations_touch_are_one(gap, gli, met):
    """Three voxels of dilation from either side bridge six, one bridges two."""
    near = ((2, 8), (2, 8), (8 + gap, 14 + gap))
    ref = volume(FIRST, near)
    assert score_brats_lesions(ref, ref, UNIT, GLI).match.counts.lesions == gli
    assert score_brats_lesions(ref, ref, UNIT, MET).match.counts.lesions == met


def test_a_prediction_that_only_the_dilation_touches_finds_the_lesion_with_dice_0():
    beside = ((2, 8), (2, 8), (9, 11))
    got = score_brats_lesions(volume(beside), volume(FIRST), UNIT, GLI)
    assert (got.dice, got.match.counts) == (0, LesionCounts(1, 1, 0))
    assert got.hd95_mm < 374
    far = score_brats_lesions(volume(((2, 8), (2, 8), (12, 14))), volume(FIRST), UNIT, GLI)
    assert far.match.counts == LesionCounts(1, 0, 1)


def test_an_island_over_two_lesions_counts_whole_for_both():
    pred = volume(((2, 26), (2, 26), (2, 26)))
    got = score_brats_lesions(pred, volume(FIRST, SECOND), UNIT, GLI)
    each = 2 * 216 / (216 + 24**3)
    assert [lesion.dice for lesion in got.match.lesions] == pytest.approx([each, each])
    assert got.dice == pytest.approx(each)
    assert got.match.counts == LesionCounts(2, 2, 0)


def test_nothing_on_either_side_is_1_and_0_and_says_so():
    got = score_brats_lesions(volume(), volume(), UNIT, GLI)
    assert (got.dice, got.hd95_mm, got.is_nothing) == (1, 0, True)
    alarm = score_brats_lesions(volume(AWAY), volume(), UNIT, GLI)
    assert (alarm.dice, alarm.hd95_mm, alarm.is_nothing) == (0, 374, False)


def test_what_is_not_valid_leaves_both_sides():
    valid = ~volume(((30, 40), (0, 30), (0, 30)))
    got = score_brats_lesions(volume(FIRST, AWAY), volume(FIRST), UNIT, GLI, valid)
    assert got.dice == 1


def test_centres_are_those_of_the_volume():
    got = score_brats_lesions(volume(FIRST, AWAY), volume(FIRST, SECOND), UNIT, BratsRules(2, 50))
    assert [lesion.centre for lesion in got.match.lesions] == [(4.5, 4.5, 4.5), (22.5, 22.5, 22.5)]
    assert [island.centre for island in got.match.false_positives] == [(34.5, 2.5, 20.5)]
    assert [island.voxels for island in got.match.false_positives] == [8]
