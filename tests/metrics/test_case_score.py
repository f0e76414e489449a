import math
from dataclasses import astuple

import numpy as np
import pytest
import torch

from segfocal.labels import LabelScheme
from segfocal.metrics.case_score import (
    RegionScore,
    mean_dice,
    region_masks,
    score_case,
    score_region,
    summarise,
)

SCHEME = LabelScheme.preset("msd-task01", ignore_values=(255,))


def score(classes_pred, classes_ref, zooms_mm=None):
    pred = region_masks(np.array(classes_pred, np.uint8), SCHEME.target_classes)
    ref = np.array(classes_ref, np.uint8)
    return score_case("A", pred, ref, SCHEME.target_names, SCHEME.target_classes, zooms_mm)


def test_regions_are_unions_of_classes_and_ignored_voxels_belong_to_none():
    classes = np.array([[0, 1, 2], [3, 255, 0]], np.uint8)
    masks = region_masks(classes, SCHEME.target_classes)
    for mask, members in zip(masks, ((1, 2, 3), (2, 3), (3,)), strict=True):
        np.testing.assert_array_equal(mask, np.isin(classes, members))


def test_a_case_by_hand():
    #                      WT: ref 5, pred 5, both 4   TC: ref 3, pred 2, both 1   ET: 1, 0
    reference = [[1, 1, 2, 2, 3, 0, 0, 0, 255]]
    predicted = [[1, 1, 1, 2, 0, 0, 2, 0, 3]]
    got = score(predicted, reference, zooms_mm=(2.0, 5.0)).regions
    assert list(got) == ["WT", "TC", "ET"]
    assert got["WT"] == RegionScore(2 * 4 / 10, 5, 5, 1, 1, 1, 0.05, 0.05)
    assert got["TC"] == RegionScore(2 * 1 / 5, 3, 2, 1, 1, 1, 0.03, 0.02)
    assert got["ET"] == RegionScore(0.0, 1, 0, 1, 0, 0, 0.01, 0.0)


def test_a_voxel_of_sheared_axes_is_less_than_its_edges_make():
    pred, ref = np.array([1, 0, 0], bool), np.array([1, 1, 0], bool)
    region = score_region(pred, ref, zooms_mm=(1, 2.154, 3.041), voxel_mm3=6.0)
    assert (region.ref_ml, region.pred_ml) == (0.012, 0.006)
    masks = np.array([[1, 0, 0]], bool)
    case = score_case("A", masks, np.array([1, 1, 0]), ["WT"], [(1,)], voxel_mm3=6.0)
    assert case.regions["WT"].ref_ml == 0.012


def test_a_lesion_is_found_by_a_voxel_unless_more_are_asked_for():
    pred, ref = np.array([1, 0, 0, 0], bool), np.array([1, 1, 1, 0], bool)
    assert score_region(pred, ref).lesions_found == 1
    assert score_region(pred, ref, min_overlap_voxels=2).lesions_found == 0


def test_volumes_are_none_without_voxel_sizes():
    region = score_region(np.ones(3, bool), np.ones(3, bool))
    assert region.ref_ml is None
    assert region.pred_ml is None


def test_empty_classes_are_counted_and_never_averaged_in_silence():
    both_empty = score([[0, 1]], [[0, 1]])
    false_alarm = score([[3, 1]], [[0, 1]])
    right = score([[3, 1]], [[3, 1]])
    half = score([[3, 3, 0, 0]], [[3, 0, 0, 0]])
    summary = summarise([both_empty, false_alarm, right, half])["ET"]
    assert summary.dice == pytest.approx((0 + 1 + 2 / 3) / 3)
    assert (summary.n, summary.n_scored, summary.n_empty, summary.n_false_alarm) == (4, 3, 2, 1)
    assert (summary.lesions, summary.lesions_found, summary.false_positives) == (2, 2, 1)
    assert summary.lesion_f1 == pytest.approx(2 * 2 / (2 * 2 + 0 + 1))


def test_a_region_that_no_case_has_is_nan_and_stays_out_of_the_mean():
    summary = summarise([score([[0, 1]], [[0, 1]])])
    assert math.isnan(summary["ET"].dice)
    assert math.isnan(summary["ET"].lesion_f1)
    assert summary["ET"].n_scored == 0
    assert mean_dice(summary) == 1.0
    assert math.isnan(mean_dice(summarise([])))


def test_a_reference_that_is_ignored_everywhere_scores_nothing():
    got = score([[1, 2, 3]], [[255, 255, 255]]).regions
    assert all(math.isnan(region.dice) and region.pred_voxels == 0 for region in got.values())


def test_a_prediction_with_another_number_of_regions_is_refused():
    with pytest.raises(ValueError, match=r"^pred must be one mask per region: expected shape \(3,"):
        score_case(
            "A",
            np.zeros((2, 4), bool),
            np.zeros(4, np.uint8),
            SCHEME.target_names,
            SCHEME.target_classes,
        )


def test_a_region_nobody_looked_for_is_no_case_of_it():
    pred = region_masks(np.array([1, 2, 3, 3], np.uint8), SCHEME.target_classes)
    ref = np.array([1, 1, 1, 0], np.uint8)
    names, classes = SCHEME.target_names, SCHEME.target_classes
    partial = score_case("A", pred, ref, names, classes, annotated=(True, False, False))
    whole = score([0, 2, 3, 3], [0, 2, 3, 0])
    assert partial.regions["WT"] == score_case("A", pred, ref, names, classes).regions["WT"]
    assert not partial.regions["TC"].annotated
    assert math.isnan(partial.regions["TC"].dice)
    assert not any(astuple(partial.regions["TC"])[1:])
    summary = summarise([partial, whole])
    assert (summary["WT"].n, summary["TC"].n, summary["ET"].n) == (2, 1, 1)
    assert summary["ET"] == summarise([whole])["ET"]
    alone = summarise([partial])["ET"]
    assert (alone.n, alone.n_empty, alone.n_false_alarm, alone.false_positives) == (0, 0, 0, 0)
    assert mean_dice(summarise([partial])) == pytest.approx(partial.regions["WT"].dice)


@pytest.mark.parametrize("kind", [np.int64, np.int16, np.uint16])
@pytest.mark.parametrize("held", [[0, 1, 3, 255], [0, 0], [3], [254], [255]])
def test_class_indices_of_any_integer_type_make_masks(kind, held):
    classes = np.array([held])
    expected = np.array([[[c in (1, 3) for c in held]], [[c == 3 for c in held]]])
    assert np.array_equal(region_masks(classes.astype(np.uint8), [(1, 3), (3,)]), expected)
    assert np.array_equal(region_masks(classes.astype(kind), [(1, 3), (3,)]), expected)
    tensor = torch.from_numpy(classes)
    assert np.array_equal(region_masks(tensor, [(1, 3), (3,)]), expected)
    of_arrays, of_tensors = (
        score_case("c", pred, reference, ["a", "b"], [(1, 3), (3,)])
        for pred, reference in ((expected, classes), (torch.from_numpy(expected), tensor))
    )
    assert str(of_arrays) == str(of_tensors)
    dice = 1 if 3 in held else math.nan
    assert of_arrays.regions["b"].dice == pytest.approx(dice, nan_ok=True)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            [-1, 0],
            "class indices must be 0 to 254, or 255 where ignored: got -1 to 0. Encode labels",
        ),
        ([0, 300], "class indices must be 0 to 254, or 255 where ignored: got 0 to 300. Encode"),
        ([0.0, 1.0], "class indices must be integers: got float64."),
    ],
)
def test_what_is_no_class_index_is_refused_and_never_read_as_another(classes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        region_masks(classes, [(1,)])
    with pytest.raises(ValueError, match=f"^{message}"):
        score_case("c", np.zeros((1, 2), bool), classes, ["a"], [(1,)])
