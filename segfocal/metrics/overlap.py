"""Volume overlap of two masks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


def dice(pred: npt.ArrayLike, ref: npt.ArrayLike, valid: npt.ArrayLike | None = None) -> float:
    """Dice coefficient of two masks; NaN where both are empty.

    Equals `2 * (pred & ref).sum() / (pred.sum() + ref.sum())` over the valid voxels. Where the
    reference is empty and the prediction is not, that is 0; where both are empty the coefficient
    is undefined, and whoever averages must leave the case out and say so (`summarise` does).

    Args:
        pred: Predicted mask, any shape, bool; an array or a tensor in memory, as the others.
        ref: Reference mask of the same shape, bool.
        valid: True where the reference is known, same shape; None for everywhere.

    Returns:
        A number in 0 .. 1, or NaN.

    Raises:
        ValueError: If the shapes differ or an array is not boolean.

    Reference:
        Dice LR. Measures of the amount of ecologic association between species. Ecology 1945.

    Example:
        >>> dice(np.array([True, True, False]), np.array([True, False, False]))
        0.6666666666666666
        >>> dice(np.array([False]), np.array([False]))
        nan
    """
    pred, ref, valid = as_masks(pred, ref, valid)
    if valid is None:
        both = np.count_nonzero(pred & ref)
        total = np.count_nonzero(pred) + np.count_nonzero(ref)
    else:
        known = ref & valid
        both = np.count_nonzero(pred & known)
        total = np.count_nonzero(pred & valid) + np.count_nonzero(known)
    return float(2 * both / total) if total else float("nan")


def as_masks(
    pred: npt.ArrayLike, ref: npt.ArrayLike, valid: npt.ArrayLike | None
) -> tuple[Mask, Mask, Mask | None]:
    """The three as arrays.

    Raises:
        ValueError: Unless all are boolean and of one shape.
    """
    masks = np.asarray(pred), np.asarray(ref), None if valid is None else np.asarray(valid)
    for name, mask in zip(("pred", "ref", "valid"), masks, strict=True):
        if mask is None:
            continue
        if mask.dtype != np.bool_:
            raise ValueError(
                f"{name} must be a mask: expected dtype bool, got {mask.dtype}. "
                f"Compare with a class first, e.g. classes == 1."
            )
        if mask.shape != masks[1].shape:
            raise ValueError(
                f"{name} and ref must have one shape: got {mask.shape} and {masks[1].shape}."
            )
    return masks
