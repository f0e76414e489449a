"""Rows about what a loss computes: activation, ignored voxels, means and weights."""

import inspect
import warnings

import monai.losses
import torch
from torch.nn import functional as F

from defects.row import (
    NOT_YET,
    Row,
    gradient,
    is_close,
    make_case,
    number,
    one_hot,
    our_loss,
    percent,
    seeded,
)
from segfocal.losses import DiceFocalLoss, FocalLoss


def focal_term_of_dice_focal() -> Row:
    logits, labels = make_case()
    truth = F.cross_entropy(logits, labels[:, 0])
    theirs = monai.losses.DiceFocalLoss(softmax=True, to_onehot_y=True, gamma=0.0, lambda_dice=0.0)(
        logits, labels
    )
    binary = F.binary_cross_entropy_with_logits(logits, one_hot(labels, 4))
    ours = DiceFocalLoss(softmax=True, gamma=0.0, lambda_dice=0.0)(logits, labels)
    return Row(
        "`DiceFocalLoss(softmax=True)` runs sigmoid focal",
        "its focal term at gamma 0, divided by `F.cross_entropy`",
        f"{number(theirs / truth)} (by binary cross-entropy: {number(theirs / binary)})",
        number(ours / truth),
        is_close(ours, truth),
    )


def nothing_ignored() -> Row:
    logits, labels = make_case()
    with_label = monai.losses.FocalLoss(to_onehot_y=True, ignore_index=255)(logits, labels)
    without = monai.losses.FocalLoss(to_onehot_y=True)(logits, labels)
    ours = FocalLoss(ignore_index=255)(logits, labels) / FocalLoss()(logits, labels)
    return Row(
        "`ignore_index` with nothing ignored multiplies the mean by C",
        "focal loss with `ignore_index=255` over the same without, 4 classes, no voxel 255",
        number(with_label / without),
        number(ours),
        ours.item() == 1,
    )


def background_of_regions() -> Row:
    logits, labels = make_case(3)
    labels = 3 * labels % 4  # 0, 3, 2: no case here holds an ignored voxel
    regions = ((1, 2, 3), (2, 3), (3,))
    channels = torch.cat([torch.isin(labels, torch.tensor(region)) for region in regions], 1)
    background = (labels == 0).expand_as(logits)
    theirs = monai.losses.FocalLoss(ignore_index=255)(logits, channels.float())
    ours = FocalLoss(regions=regions, ignore_index=255)(logits, labels)
    silent = gradient(ours, logits)[background] == 0
    return Row(
        "`ignore_index` on one-hot or region targets masks every all-zero voxel",
        "background voxels without a gradient, focal loss on three regions, nothing ignored",
        percent(gradient(theirs, logits)[background] == 0),
        percent(silent),
        not silent.any(),
    )


def compound_with_ignore() -> Row:
    names = ("DiceFocalLoss", "GeneralizedDiceFocalLoss", "DiceCELoss")
    theirs = [
        name
        for name in names
        if "ignore_index" in inspect.signature(getattr(monai.losses, name)).parameters
    ]
    found = {name: our_loss(name) for name in names if our_loss(name) is not None}
    missing = [name for name in names if name not in found]
    logits, labels = make_case()
    part = logits[:, :, :6]
    largest = 0.0
    for loss in found.values():
        cut = loss(softmax=True)(part, labels[:, :, :6])
        hidden = labels.clone()
        hidden[:, :, 6:] = 255
        ignored = loss(softmax=True, ignore_index=255)(logits, hidden)
        largest = max(largest, abs((ignored / cut - 1).item()))
    ours = f"{len(found)} of 3; {largest:.1g} away from cutting the voxels out"
    return Row(
        "DiceFocal, GeneralizedDiceFocal and DiceCE have no `ignore_index`",
        "how many of the three take it; and the loss with half of the volume ignored, relative "
        "to that of the other half alone",
        f"{len(theirs)} of 3",
        ours + (f"; {NOT_YET}: {', '.join(missing)}" if missing else ""),
        (largest < 1e-5 and not missing) or (None if missing and largest < 1e-5 else False),
    )


def poison_under_ignore() -> Row:
    logits, labels = make_case()
    labels[:, :, 0] = 255
    poisoned = logits.detach().clone()
    poisoned[:, :, 0] = torch.nan
    poisoned.requires_grad_()
    theirs = monai.losses.DiceLoss(softmax=True, to_onehot_y=True, ignore_index=255)
    loss = DiceFocalLoss(softmax=True, ignore_index=255)
    ours = loss(poisoned, labels)
    grad = gradient(ours, poisoned)
    is_clean = ours == loss(logits, labels) and bool((grad[:, :, 0] == 0).all())
    return Row(
        "Masking by multiplication: a NaN or inf logit under an ignored voxel poisons the loss",
        "Dice (MONAI), Dice+focal (here) with NaN logits under ignored voxels",
        number(theirs(poisoned, labels)),
        f"{number(ours)}, the loss without the NaN; its gradient there is 0"
        if is_clean
        else number(ours),
        is_clean and bool(grad.isfinite().all()),
    )


def without_background() -> Row:
    logits, labels = make_case(2)
    options = {"use_softmax": True, "include_background": False, "gamma": 0.0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = monai.losses.FocalLoss(**options)(logits, one_hot(labels, 2))
    ours = FocalLoss(**options)(logits, labels)
    terms = F.cross_entropy(logits, labels[:, 0], reduction="none")
    truth = (terms * (labels[:, 0] == 1)).sum()
    ratio = FocalLoss(**options, reduction="sum")(logits, labels) / truth
    return Row(
        "Softmax with `include_background=False` cuts channel 0 off before the softmax",
        "focal loss at gamma 0 of two classes without the background",
        number(theirs),
        f"{number(ours)}; its sum is {number(ratio)} x the foreground's cross-entropy",
        is_close(ratio, 1) and ours.item() > 0,
    )


def softmax_mean() -> Row:
    logits, labels = make_case()
    truth = F.cross_entropy(logits, labels[:, 0])
    options = {"use_softmax": True, "gamma": 0.0}
    theirs = monai.losses.FocalLoss(to_onehot_y=True, **options)(logits, labels)
    ours = FocalLoss(**options)(logits, labels)
    return Row(
        "The softmax mean divides by B x C x voxels",
        "focal loss at gamma 0 over `F.cross_entropy`, 4 classes",
        number(theirs / truth),
        number(ours / truth),
        is_close(ours, truth),
    )


def sum_is_a_sum() -> Row:
    logits, labels = make_case()
    ratios = []
    for loss, options in ((monai.losses.FocalLoss, {"to_onehot_y": True}), (FocalLoss, {})):
        terms = loss(**options, reduction="none")(logits, labels)
        ratios.append((loss(**options, reduction="sum")(logits, labels) / terms.sum()).item())
    return Row(
        '`reduction="sum"` is a spatial mean, then a sum',
        f'"sum" over the sum of "none", {logits[0, 0].numel()} voxels',
        f"{number(ratios[0])} = 1/{1 / ratios[0]:.0f}",
        number(ratios[1]),
        is_close(ratios[1], 1),
    )


def alpha_of_negatives() -> Row:
    logits, target = torch.randn(1, 2, 64, generator=seeded()), torch.zeros(1, 2, 64)
    options = {"gamma": 0.0, "reduction": "none"}
    weights = []
    for loss in (monai.losses.FocalLoss, FocalLoss):
        plain = loss(**options)(logits, target)
        weights.append(loss(alpha=[0.9, 0.7], **options)(logits, target) / plain)
    theirs, ours = (weight[0, :, 0] for weight in weights)
    right = torch.tensor([0.1, 0.3])[None, :, None].expand_as(weights[1])
    return Row(
        "Sigmoid with an alpha per class: negatives weigh 1",
        "weight of the negatives of two classes with alpha .9 and .7",
        " and ".join(number(weight) for weight in theirs),
        " and ".join(number(weight) for weight in ours),
        torch.allclose(weights[1], right),
    )


def alpha_in_state_dict() -> Row:
    theirs = "alpha" in monai.losses.FocalLoss(alpha=[0.25, 0.5]).state_dict()
    held = FocalLoss(alpha=[0.25, 0.5]).state_dict().get("alpha")
    return Row(
        "`alpha` is not in the `state_dict`",
        "alpha, read back from the state_dict",
        "there" if theirs else "absent",
        "absent" if held is None else str(held.tolist()),
        held is not None and held.tolist() == [0.25, 0.5],
    )


ROWS = (
    focal_term_of_dice_focal,
    nothing_ignored,
    background_of_regions,
    compound_with_ignore,
    poison_under_ignore,
    without_background,
    softmax_mean,
    sum_is_a_sum,
    alpha_of_negatives,
    alpha_in_state_dict,
)
