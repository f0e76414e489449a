"""Focal losses in plain NumPy, from probabilities: short enough to check by eye.

For results that are already probabilities, for teaching, and as an oracle: the tests hold the torch
losses against these. Everything is computed in float64, because float32 rounds 1 - 1e-9 to 1 and
the clipping would do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Reduction = Literal["mean", "sum", "none"]

SUM_TOLERANCE = 1e-2
"""How far a voxel's probabilities may sum from 1: bfloat16 rounds by 0.4 %."""


def focal_loss(
    probs: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: Reduction = "mean",
    eps: float = 1e-9,
) -> Floats | float:
    r"""Binary focal loss of probabilities.

    .. math:: FL = -\alpha_t (1 - p_t)^\gamma \log p_t

    Args:
        probs: Probability of the positive class in [0, 1], any shape.
        target: 0 and 1, or shares between them, of the same shape.
        alpha: Weight of positives in [0, 1]; negatives weigh 1 - alpha. None for 1 and 1.
        gamma: Focusing exponent >= 0.
        reduction: "mean" (0 of nothing), "sum", or "none" for a value per element.
        eps: Probabilities are clipped to [eps, 1 - eps], in (0, 0.5).

    Raises:
        ValueError: If shapes differ or a number is out of range.

    Reference:
        Lin et al., 2017, arXiv:1708.02002, equation 5.

    Example:
        >>> round(focal_loss([0.9, 0.2], [1, 0]), 6)
        0.003479
    """
    p, t = _checked(probs, target, gamma, eps)
    weight_pos, weight_neg = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    if not 0 <= weight_pos <= 1:
        raise ValueError(f"alpha must be in [0, 1]: got {alpha}.")
    positive = -weight_pos * (1 - p) ** gamma * np.log(p)
    negative = -weight_neg * p**gamma * np.log1p(-p)
    return _reduced(t * positive + (1 - t) * negative, reduction)


def softmax_focal_loss(
    probs: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    alpha: Sequence[float] | None = None,
    gamma: float = 2.0,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
    eps: float = 1e-9,
) -> Floats | float:
    r"""Focal loss of probabilities of classes that exclude each other.

    .. math:: FL = -\alpha_y (1 - p_y)^\gamma \log p_y

    Args:
        probs: `(B, C, *S)`, summing to 1 over C. What is ignored may hold anything.
        labels: Integer labels `(B, *S)`.
        alpha: Weight >= 0 of each class; None for 1.
        gamma: Focusing exponent >= 0.
        reduction: "mean" over the voxels that count, "sum", or "none" for `(B, *S)`.
        ignore_index: Label whose voxels do not count.
        eps: Probabilities are clipped to [eps, 1 - eps], in (0, 0.5).

    Raises:
        ValueError: If shapes differ, labels are no integers, probabilities do not sum to 1, or a
            label or number is out of range.

    Example:
        >>> round(softmax_focal_loss([[0.7, 0.3]], [0], gamma=0.0), 4)
        0.3567
    """
    p = np.asarray(probs, dtype=np.float64)
    y = np.asarray(labels)
    if p.ndim < 2 or y.shape != (p.shape[0], *p.shape[2:]):
        raise ValueError(
            f"labels must have the shape of probs without the class axis: got {p.shape} and "
            f"{y.shape}."
        )
    if y.dtype.kind not in "biu":
        raise ValueError(f"labels must be integers: got {y.dtype}. Pass labels.astype(int).")
    valid = np.ones(y.shape, bool) if ignore_index is None else y != ignore_index
    wrong = np.unique(y[valid & ((y < 0) | (y >= p.shape[1]))])
    if wrong.size:
        raise ValueError(
            f"labels must be in [0, {p.shape[1]}) or ignored: got {', '.join(map(str, wrong))}."
        )
    p = np.where(valid[:, None], p, 1 / p.shape[1])
    if not np.allclose(p.sum(axis=1), 1, rtol=0, atol=SUM_TOLERANCE):
        raise ValueError("probs must sum to 1 over the classes. Pass a softmax's, not a sigmoid's.")
    p, _ = _checked(p, p, gamma, eps)
    own = np.take_along_axis(p, np.where(valid, y, 0)[:, None].astype(np.int64), axis=1)[:, 0]
    weights = np.ones(p.shape[1]) if alpha is None else np.asarray(alpha, dtype=np.float64)
    if weights.shape != (p.shape[1],) or not np.all((weights >= 0) & (weights < np.inf)):
        raise ValueError(f"alpha must have a finite weight >= 0 for each of {p.shape[1]} classes.")
    loss = -weights[np.where(valid, y, 0)] * (1 - own) ** gamma * np.log(own) * valid
    if reduction == "mean":
        return float(loss.sum() / max(valid.sum(), 1))
    return _reduced(loss, reduction)


def _checked(
    probs: npt.ArrayLike, target: npt.ArrayLike, gamma: float, eps: float
) -> tuple[Floats, Floats]:
    p, t = np.asarray(probs, dtype=np.float64), np.asarray(target, dtype=np.float64)
    if p.shape != t.shape:
        raise ValueError(f"probs and target must have one shape: got {p.shape} and {t.shape}.")
    if not np.all((p >= 0) & (p <= 1)):
        raise ValueError("probs must be in [0, 1]. Pass probabilities, not logits.")
    if not np.all((t >= 0) & (t <= 1)):
        raise ValueError("target must be in [0, 1]. Pass 0 and 1, or shares between them.")
    if not 0 <= gamma < np.inf:
        raise ValueError(f"gamma must be finite and >= 0: got {gamma}.")
    if not 0 < eps < 0.5:
        raise ValueError(f"eps must be in (0, 0.5): got {eps}.")
    return np.clip(p, eps, 1 - eps), t


def _reduced(loss: Floats, reduction: Reduction) -> Floats | float:
    if reduction == "none":
        return loss
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be one of mean, sum, none: got {reduction!r}.")
    return float(loss.sum() / max(loss.size, 1) if reduction == "mean" else loss.sum())
