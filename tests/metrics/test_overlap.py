import math

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.meta_tensor import MetaTensor
from sklearn.metrics import f1_score

from segfocal.metrics.overlap import dice

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
TRIPLES = SHAPES.flatmap(lambda shape: st.tuples(*[hnp.arrays(np.bool_, shape) for _ in range(3)]))


@given(TRIPLES)
def test_dice_equals_scikit_learns_f1_of_the_valid_voxels(masks):
    pred, ref, valid = masks
    got = dice(pred, ref, valid)
    if (pred | ref)[valid].any():
        assert got == pytest.approx(f1_score(ref[valid], pred[valid]), abs=1e-12)
    else:
        assert math.isnan(got)


@given(TRIPLES)
def test_no_mask_of_validity_means_that_all_voxels_are_valid(masks):
    pred, ref, _ = masks
    assert dice(pred, ref) == pytest.approx(dice(pred, ref, np.ones_like(ref)), nan_ok=True)


@given(TRIPLES)
def test_what_lies_under_the_ignore_label_does_not_count(masks):
    pred, ref, valid = masks
    flipped = np.where(valid, ref, ~ref), np.where(valid, pred, ~pred)
    assert dice(flipped[1], flipped[0], valid) == pytest.approx(dice(pred, ref, valid), nan_ok=True)


def test_an_empty_reference_with_a_prediction_scores_0_and_both_empty_nothing():
    none, some = np.zeros(4, bool), np.array([True, False, False, False])
    assert dice(some, none) == 0
    assert dice(none, some) == 0
    assert math.isnan(dice(none, none))


def test_arguments_that_are_no_masks_of_one_shape_are_refused():
    ref = np.zeros((2, 3), bool)
    with pytest.raises(ValueError, match=r"^pred and ref must have one shape: got \(3, 2\) and"):
        dice(np.zeros((3, 2), bool), ref)
    with pytest.raises(ValueError, match=r"^pred must be a mask: expected dtype bool, got uint8"):
        dice(np.zeros((2, 3), np.uint8), ref)
    with pytest.raises(ValueError, match=r"^valid and ref must have one shape"):
        dice(ref, ref, np.zeros(3, bool))


@pytest.mark.parametrize(
    "kind", [torch.from_numpy, lambda mask: MetaTensor(mask), np.ndarray.tolist]
)
def test_tensors_and_lists_score_as_the_arrays_they_hold(kind):
    pred, ref, valid = np.random.default_rng(0).random((3, 4, 5)) > 0.5
    assert dice(kind(pred), kind(ref), kind(valid)) == dice(pred, ref, valid)
    with pytest.raises(ValueError, match=r"^ref must be a mask: expected dtype bool, got int64"):
        dice(kind(pred), kind(ref.astype(np.int64)))
