"""segfocal.compat.monai against MONAI itself, on random arguments, shapes and targets."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.utils import Weight

from tests.compat.twins import (
    REDUCTIONS,
    SMOOTH,
    activations,
    assert_same,
    maybe,
    pairs,
    weights,
)

RANDOM = settings(max_examples=80, deadline=None, derandomize=True, database=None)
IGNORED = st.sampled_from([None] * 4 + [255, 255, 0, 1, -1])


def onehot_flag(draw, kind):
    """Right most of the time."""
    return (kind == "labels") != (draw(st.integers(0, 24)) == 0)


@st.composite
def overlap_cases(draw):
    """What Dice, generalised Dice and Tversky share."""
    logits, target, kind = draw(pairs())
    options = draw(activations()) | {
        "include_background": draw(maybe(st.booleans(), True)),
        "to_onehot_y": onehot_flag(draw, kind),
        "reduction": draw(REDUCTIONS),
        "smooth_nr": draw(SMOOTH),
        "smooth_dr": draw(SMOOTH),
        "batch": draw(st.booleans()),
    }
    return logits, target, options


def rounding(logits, options):
    """The dtype whose rounding MONAI's number carries, where it is not that of the logits.

    Of float64 logits it takes the norm of a float32 target in float32.
    """
    takes_norms = options.get("squared_pred") or options.get("soft_label")
    return torch.float32 if takes_norms and logits.dtype == torch.float64 else logits.dtype


@st.composite
def dice_cases(draw):
    logits, target, options = draw(overlap_cases())
    options["squared_pred"] = draw(st.booleans())
    options["jaccard"] = draw(st.booleans())
    options["weight"] = weights(draw, logits.shape[1], options["include_background"])
    return logits, target, options


@RANDOM
@given(dice_cases(), st.booleans(), IGNORED)
def test_dice(case, soft_label, ignore_index):
    logits, target, options = case
    options |= {"soft_label": soft_label, "ignore_index": ignore_index}
    assert_same("DiceLoss", options, logits, target, dtype=rounding(logits, options))


@RANDOM
@given(
    dice_cases(), st.booleans(), st.sampled_from(["none", "channels", "batch", *["all", "one"] * 6])
)
def test_masked_dice(case, soft_label, how):
    logits, target, options = case
    shape = list(logits.shape)
    shape[1] = 2 if how == "channels" else 1
    shape[0] = {"one": 1, "batch": 4}.get(how, shape[0])
    mask = None
    if how != "none":
        mask = (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.6).float()
    options["soft_label"] = soft_label
    assert_same("MaskedDiceLoss", options, logits, target, mask, dtype=rounding(logits, options))


@RANDOM
@given(
    overlap_cases(),
    st.sampled_from([0.5, 0.3, 1.0]),
    st.sampled_from([0.5, 0.7]),
    st.booleans(),
    IGNORED,
)
def test_tversky(case, alpha, beta, soft_label, ignore_index):
    logits, target, options = case
    options |= {"alpha": alpha, "beta": beta, "soft_label": soft_label}
    options["ignore_index"] = ignore_index
    assert_same("TverskyLoss", options, logits, target, dtype=rounding(logits, options))


W_TYPES = st.sampled_from(["square", "simple", "uniform"] * 3 + [" square", Weight.SIMPLE, "cube"])


@RANDOM
@given(overlap_cases(), W_TYPES, st.booleans())
def test_generalized_dice(case, w_type, soft_label):
    logits, target, options = case
    options |= {"w_type": w_type, "soft_label": soft_label}
    assert_same("GeneralizedDiceLoss", options, logits, target, dtype=rounding(logits, options))


GAMMAS = st.sampled_from([2.0, 2.0, 0.0, 1, 0.5, 3.5])


@st.composite
def alphas(draw, num_classes, include_background):
    counted = num_classes if include_background or num_classes == 1 else num_classes - 1
    each = [0.25 + 0.5 * c for c in range(counted)]
    choices = [*[None] * 6, 0.25, 0.7, 1, 1.5, each, each, torch.tensor(each), torch.tensor(0.3)]
    choices.append([*each, 1.0])
    return draw(st.sampled_from(choices))


@st.composite
def focal_cases(draw):
    logits, target, kind = draw(pairs())
    background = draw(maybe(st.booleans(), True))
    return (
        logits,
        target,
        {
            "include_background": background,
            "to_onehot_y": onehot_flag(draw, kind),
            "gamma": draw(GAMMAS),
            "alpha": draw(alphas(logits.shape[1], background)),
            "weight": weights(draw, logits.shape[1], background),
            "reduction": draw(REDUCTIONS),
            "use_softmax": draw(st.booleans()),
            "ignore_index": draw(IGNORED),
        },
    )


def focal_rounding(logits):
    """MONAI takes float64 down to float32, and half precision up to it."""
    return torch.float32 if logits.dtype == torch.float64 else None


@RANDOM
@given(focal_cases())
def test_focal(case):
    logits, target, options = case
    assert_same("FocalLoss", options, logits, target, dtype=focal_rounding(logits))


@RANDOM
@given(dice_cases(), GAMMAS, st.data())
def test_dice_focal(case, gamma, data):
    logits, target, options = case
    options |= {
        "gamma": gamma,
        "alpha": data.draw(alphas(logits.shape[1], options["include_background"])),
        "lambda_dice": data.draw(maybe(st.sampled_from([0.0, 0.5, -1.0]), 1.0)),
        "lambda_focal": data.draw(maybe(st.sampled_from([0.0, 20.0]), 1.0)),
    }
    assert_same("DiceFocalLoss", options, logits, target, dtype=focal_rounding(logits))


@RANDOM
@given(overlap_cases(), W_TYPES, GAMMAS, st.data())
def test_generalized_dice_focal(case, w_type, gamma, data):
    logits, target, options = case
    options |= {
        "w_type": w_type,
        "gamma": gamma,
        "weight": weights(data.draw, logits.shape[1], options["include_background"]),
        "lambda_gdl": data.draw(maybe(st.sampled_from([0.0, 0.5]), 1.0)),
        "lambda_focal": data.draw(maybe(st.sampled_from([0.0, 20.0, -1.0]), 1.0)),
    }
    dtype = focal_rounding(logits)
    assert_same("GeneralizedDiceFocalLoss", options, logits, target, dtype=dtype)


@RANDOM
@given(
    dice_cases(),
    st.sampled_from(["none", "none", "own", "own", "own", "float32", "one"]),
    st.data(),
)
def test_dice_ce(case, weight, data):
    logits, target, options = case
    classes = logits.shape[1]
    each = torch.linspace(0.5, 2.0, classes)
    if options["reduction"] == "none" and weight != "one":
        options["reduction"] = "mean"
    options |= {
        "weight": {"none": None, "float32": each, "own": each.to(logits.dtype), "one": each[:1]}[
            weight
        ],
        "label_smoothing": data.draw(maybe(st.just(0.1), 0.0)),
        "lambda_ce": data.draw(maybe(st.sampled_from([0.5, -1.0]), 1.0)),
    }
    assert_same("DiceCELoss", options, logits, target, dtype=rounding(logits, options))


UNIFIED_SIZES = st.one_of(*[st.lists(st.integers(1, 4), min_size=2, max_size=3)] * 8, st.just([3]))


@RANDOM
@given(
    pairs(spatial=UNIFIED_SIZES, channels=st.sampled_from([1, 2, 2, 2, 2, 3])),
    st.sampled_from([0.5, 0.25, 1.0]),
    st.sampled_from([0.5, 0.75]),
    IGNORED,
    st.data(),
)
def test_asymmetric_unified_focal(case, weight, gamma, ignore_index, data):
    logits, target, kind = case
    options = {
        "to_onehot_y": onehot_flag(data.draw, kind),
        "weight": weight,
        "gamma": gamma,
        "delta": 0.6,
        "reduction": data.draw(REDUCTIONS),
        "ignore_index": ignore_index,
        "num_classes": data.draw(maybe(st.just(3), 2)),
    }
    assert_same("AsymmetricUnifiedFocalLoss", options, logits.sigmoid(), target)


@RANDOM
@given(
    pairs(targets=("labels", "one hot", "several"), channels=st.integers(1, 3), regular=True),
    st.sampled_from(["exp", "two", "same", "other"]),
    st.sampled_from([None, None, [1.0, 0.3, 0.2, 0.1, 0.1, 0.1], [0.5]]),
    st.integers(0, 6),
)
def test_deep_supervision(case, mode, level_weights, levels):
    logits, target, kind = case
    options = {"to_onehot_y": kind == "labels", "sigmoid": True}
    inner = ("loss", "DiceFocalLoss", options)
    outputs = [
        logits[(..., *[slice(None, max(1, n >> level)) for n in logits.shape[2:]])]
        for level in range(levels)
    ]
    arguments = {"loss": inner, "weight_mode": mode, "weights": level_weights}
    inputs = outputs if levels else logits
    assert_same("DeepSupervisionLoss", arguments, inputs, target, dtype=torch.float32)


@RANDOM
@given(
    pairs(targets=("labels",), channels=st.integers(2, 4)),
    st.sampled_from(["default"] * 5 + ["GDL"] * 5 + ["other"]),
    st.sampled_from([np.float32, np.float64, np.int64]),
    REDUCTIONS,
    st.booleans(),
)
def test_generalized_wasserstein_dice(case, mode, dtype, reduction, as_tensor):
    logits, target, _ = case
    classes = logits.shape[1]
    distances = (2 * np.abs(np.arange(classes)[:, None] - np.arange(classes))).astype(dtype)
    options = {
        "dist_matrix": torch.from_numpy(distances) if as_tensor else distances,
        "weighting_mode": mode,
        "reduction": reduction,
    }
    assert_same("GeneralizedWassersteinDiceLoss", options, logits, target)
