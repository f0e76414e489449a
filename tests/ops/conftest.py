"""A naive oracle: one-hot at full size, autograd, float64. It shares no code with segfocal."""

from __future__ import annotations

import os

import pytest
import torch
from torch.nn import functional as F

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["interpreted_*.py"]
"""They run in a process of their own, which test_triton_interpreter.py starts."""

FIELDS = ("focal_pos", "focal_neg", "tp", "p", "p_sq", "t", "n_valid")


def _one_hot(logits, target, ignored, regions):
    """Share of every class `(B, C, *S)`, and which voxels are labelled `(B, 1, *S)`."""
    num_channels = logits.shape[1]
    if target.shape == logits.shape and not (num_channels == 1 and not target.is_floating_point()):
        return target.double(), torch.ones_like(logits[:, :1], dtype=torch.bool)
    labels = target.long().reshape(logits.shape[0], 1, *logits.shape[2:])
    labelled = torch.ones_like(labels, dtype=torch.bool)
    for value in ignored:
        labelled &= labels != value
    if regions is None:
        regions = [[1]] if num_channels == 1 else [[c] for c in range(num_channels)]
    channels = [torch.isin(labels, torch.tensor(classes)) for classes in regions]
    return torch.cat(channels, 1).double(), labelled


def naive_class_sums(
    logits,
    target,
    *,
    activation,
    gamma,
    label_smoothing=0.0,
    overlap="product",
    ignored=(),
    mask=None,
    regions=None,
):
    """The table of sums, spelled out. Valid for finite logits that are not extreme."""
    logits = logits.double()
    share, labelled = _one_hot(logits, target, ignored, regions)
    allowed = torch.ones_like(logits, dtype=torch.bool)
    if mask is not None:
        allowed = mask.expand_as(logits)
    valid = labelled & allowed
    per_channel = [1, -1] + [1] * (logits.ndim - 2)
    gamma = torch.as_tensor(gamma, dtype=torch.float64)
    gamma = gamma.expand(logits.shape[1]).view(per_channel)
    num_sides = logits.shape[1] if activation == "softmax" else 2
    smooth = (1 - label_smoothing) * share + label_smoothing / num_sides
    if activation == "softmax":
        own_allowed = ~((share > 0) & ~allowed).any(1, keepdim=True)
        some_allowed = allowed.any(1, keepdim=True)
        valid = valid & own_allowed & some_allowed
        held = logits.masked_fill(~allowed & some_allowed, -1e9)
        log_p = F.log_softmax(held, 1)
        p = log_p.exp()
        focal_pos = smooth * (1 - p) ** gamma * -log_p
        focal_neg = torch.zeros_like(focal_pos)
    else:
        p = torch.sigmoid(logits)
        focal_pos = smooth * (1 - p) ** gamma * -torch.log(p)
        focal_neg = (1 - smooth) * p**gamma * -torch.log1p(-p)
    tp = p * share if overlap == "product" else (p + share - (p - share).abs()) / 2
    terms = (focal_pos, focal_neg, tp, p, p * p, share, torch.ones_like(p))
    batch_and_channel = logits.shape[:2]
    sums = [torch.where(valid, term, 0).reshape(*batch_and_channel, -1).sum(-1) for term in terms]
    return dict(zip(FIELDS, sums, strict=True))


@pytest.fixture(scope="session")
def naive():
    return naive_class_sums
