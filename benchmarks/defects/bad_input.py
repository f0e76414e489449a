"""Rows about bad input: what is refused, and in which words."""

import functools
import math

import monai.losses
import torch

from defects.row import Row, error_of, gradient, make_case, number, shortened
from segfocal.losses import FocalLoss


def one_channel_softmax() -> Row:
    logits, target = torch.randn(1, 1, 64).requires_grad_(), torch.ones(1, 1, 64)
    theirs = monai.losses.FocalLoss(use_softmax=True)(logits, target)
    largest = gradient(theirs, logits).abs().max()
    ours = error_of(lambda: FocalLoss(use_softmax=True)(logits, target.long()))
    return Row(
        "Softmax with one channel: loss 0, gradient 0, silently",
        "focal loss and its largest gradient, every voxel of class 1",
        f"{number(theirs)} and {number(largest)}",
        shortened(ours),
        ours.startswith("ValueError: softmax needs two channels or more"),
    )


def out_of_range_options() -> Row:
    bad = ({"alpha": 1.5}, {"alpha": -0.5}, {"gamma": -1.0}, {"gamma": math.nan})
    refused = [
        sum(
            error_of(functools.partial(loss, **options)).startswith("ValueError") for options in bad
        )
        for loss in (monai.losses.FocalLoss, FocalLoss)
    ]
    return Row(
        "alpha outside [0, 1], gamma < 0 or NaN are accepted",
        "of alpha 1.5, alpha -.5, gamma -1 and gamma NaN, refused at construction",
        f"{refused[0]} of 4",
        f"{refused[1]} of 4",
        refused[1] == 4,
    )


def fractional_label() -> Row:
    logits, labels = make_case()
    with_half = labels.float()
    with_half[0, 0, 0, 0] += 0.5
    loss = monai.losses.DiceLoss(softmax=True, to_onehot_y=True)
    same = loss(logits, with_half) == loss(logits, labels)
    ours = error_of(lambda: FocalLoss(use_softmax=True)(logits, with_half))
    return Row(
        "A float target of 1.5 is truncated",
        "Dice (MONAI), focal (here) of labels with a row of halves, such as 1.5",
        "the loss of the truncated labels" if same else "another loss",
        shortened(ours, 200),
        "12 values that are not whole, such as 0.5, 1.5" in ours,
    )


def label_out_of_range() -> Row:
    logits, labels = make_case()
    labels[0, 0, 0, 0, :3], labels[1, 0, 0, 0, :5] = -1, 255
    theirs = error_of(
        lambda: monai.losses.FocalLoss(use_softmax=True, to_onehot_y=True)(logits, labels)
    )
    ours = error_of(lambda: FocalLoss(use_softmax=True)(logits, labels))
    return Row(
        'Labels -1 or 255 fail as "index out of bounds"',
        "the error for three voxels of -1 and five of 255",
        shortened(theirs),
        shortened(ours, 200),
        ours.startswith("ValueError") and "-1 (3 voxels), 255 (5 voxels)" in ours,
    )


ROWS = (one_channel_softmax, out_of_range_options, fractional_label, label_out_of_range)
