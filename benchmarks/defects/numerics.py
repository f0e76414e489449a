"""Rows about finite numbers: half precision, float64, gamma below 1, infinite logits."""

import warnings

import monai.losses
import torch

from defects.row import Row, gradient, is_close, make_case, number, percent, seeded
from segfocal.losses import DiceFocalLoss, DiceLoss, FocalLoss


def small_gamma() -> Row:
    logits = torch.linspace(-30, 30, 121)[None, None].clone().requires_grad_()
    logits = torch.cat([logits, -logits], 1)
    labels = torch.zeros(1, 1, 121, dtype=torch.long)
    options = {"use_softmax": True, "gamma": 0.5}
    theirs = gradient(monai.losses.FocalLoss(to_onehot_y=True, **options)(logits, labels), logits)
    ours = gradient(FocalLoss(**options)(logits, labels), logits)
    return Row(
        "gamma < 1 gives NaN gradients on confident voxels",
        "NaN gradients at gamma .5, softmax, logits from -30 to 30",
        percent(theirs.isnan()),
        percent(ours.isnan()),
        bool(ours.isfinite().all()),
    )


def _half_case():
    """Two classes of 80000 voxels each: more than float16's largest number, 65504."""
    logits = (2 * torch.randn(1, 2, 400, 400, generator=seeded())).half().requires_grad_()
    return logits, torch.randint(0, 2, (1, 1, 400, 400), generator=seeded(1))


def _half_dice(loss, truth, *, autocast: bool):
    logits, labels = _half_case()
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        value = loss(logits, labels)
    grad = gradient(1000 * value.float(), logits)
    text = f"{number(value)} and {percent(grad == 0)}"
    is_right = is_close(value, truth, 1e-3) and bool((grad != 0).float().mean() > 0.99)
    return text, is_right


def half_precision() -> Row:
    return _half_row(autocast=False)


def half_precision_autocast() -> Row:
    return _half_row(autocast=True)


def _half_row(*, autocast: bool) -> Row:
    logits, labels = _half_case()
    truth = DiceLoss(softmax=True)(logits.double(), labels).item()
    theirs = monai.losses.DiceLoss(softmax=True, to_onehot_y=True)
    ours, is_right = _half_dice(DiceLoss(softmax=True), truth, autocast=autocast)
    where = "under CPU float16 autocast" if autocast else "on float16 logits"
    return Row(
        f"float16 Dice over more than 65504 voxels, {where}",
        f"loss (float64: {number(truth)}) and share of zero gradients, two classes of 80000 voxels",
        _half_dice(theirs, truth, autocast=autocast)[0],
        ours,
        is_right,
    )


def empty_class() -> Row:
    logits = torch.full((1, 2, 8), -500.0).index_fill_(1, torch.tensor(0), 500.0).requires_grad_()
    labels = torch.zeros(1, 1, 8, dtype=torch.long)
    options = {"softmax": True, "smooth_nr": 0.0, "smooth_dr": 0.0}
    theirs = monai.losses.DiceLoss(to_onehot_y=True, **options)(logits, labels)
    ours = DiceLoss(**options)(logits, labels)
    return Row(
        "`smooth_nr=smooth_dr=0` on an empty class is NaN",
        "Dice without smoothing of a class that is neither there nor predicted",
        number(theirs),
        number(ours),
        ours.item() == 0 and bool(gradient(ours, logits).isfinite().all()),
    )


def double_precision() -> Row:
    logits, labels = make_case(3, size=2, dtype=torch.float64)
    values = []
    for loss in (
        monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True),
        FocalLoss(use_softmax=True),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            passes = torch.autograd.gradcheck(
                lambda z, loss=loss: loss(z, labels), logits, raise_exception=False
            )
        values.append((loss(logits, labels).dtype, passes))
    theirs, ours = (
        f"{str(dtype).removeprefix('torch.')}, {'passes' if passes else 'fails'}"
        for dtype, passes in values
    )
    return Row(
        "float64 is cast to float32",
        "dtype of the focal loss of float64 logits, and `gradcheck`",
        theirs,
        ours,
        values[1] == (torch.float64, True),
    )


def infinite_logit() -> Row:
    logits, labels = make_case()
    with torch.no_grad():
        logits[:, 3] = -torch.inf
    labels[labels == 3] = 0
    theirs = monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True)(logits, labels)
    ours = DiceFocalLoss(softmax=True, lambda_dice=0.0)(logits, labels)
    without = DiceFocalLoss(softmax=True, lambda_dice=0.0)(logits[:, :3], labels)
    return Row(
        "-inf on a wrong class gives NaN",
        "softmax focal loss with -inf for a class that no voxel has",
        number(theirs),
        f"{number(ours)}; {number(ours / without)} x the loss without that class",
        is_close(ours, without) and bool(gradient(ours, logits).isfinite().all()),
    )


ROWS = (
    small_gamma,
    half_precision,
    half_precision_autocast,
    empty_class,
    double_precision,
    infinite_logit,
)
