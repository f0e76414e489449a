"""Class weights from counts: the formula of every published scheme, by name.

With n_c the count of class c, N their sum, f_c = n_c / N and C classes (ignored voxels left out):

| scheme | weight | source |
|---|---|---|
| `inverse` | 1 / f_c^beta, beta 1 unless given (0.5: inverse square root) | |
| `balanced` | N / (C n_c) | scikit-learn, `compute_class_weight` |
| `median_frequency` | median(freq) / freq_c, freq_c = n_c / n_of_volumes_with_c | arXiv:1411.4734 |
| `effective_number` | (1 - beta) / (1 - beta^n_c), beta 1 - 1/N unless given | arXiv:1901.05555 |
| `enet` | 1 / ln(1.02 + f_c) | arXiv:1606.02147 |
| `generalized_dice` | 1 / n_c^2 | arXiv:1707.03237 |
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from segfocal.errors import UserError

Floats = npt.NDArray[np.float64]
Scheme = Literal[
    "inverse", "balanced", "median_frequency", "effective_number", "enet", "generalized_dice"
]

SCHEMES: tuple[Scheme, ...] = (
    "inverse",
    "balanced",
    "median_frequency",
    "effective_number",
    "enet",
    "generalized_dice",
)
"""The names that `loss.alpha` takes."""


def class_weights(
    n: npt.ArrayLike,
    scheme: Scheme,
    *,
    beta: float | None = None,
    holding: npt.ArrayLike | None = None,
    total: int | None = None,
) -> Floats:
    """The formula of a scheme, neither normalised nor capped.

    Args:
        n: Count of each class, `(C,)`, all > 0: voxels, volumes, or lesions.
        scheme: One of `SCHEMES`.
        beta: As in `class_alpha`.
        holding: For `median_frequency`, the voxels of the volumes that hold each class, `(C,)`;
            None takes N for all.
        total: For `effective_number` without beta, the N of beta = 1 - 1/N; None is the sum of n.

    Raises:
        UserError: If the scheme is unknown, or beta does not fit it or the counts.
        ValueError: If a count is not positive.

    Example:
        >>> class_weights([90, 10], "balanced").round(4).tolist()
        [0.5556, 5.0]
    """
    n = np.asarray(n, dtype=np.float64)
    if n.size == 0 or not (np.isfinite(n) & (n > 0)).all():
        raise ValueError(f"n must be positive counts, got {n.tolist()}.")
    fraction = n / n.sum()
    exponent = scheme_beta(scheme, beta, int(n.sum()) if total is None else total)
    if scheme == "inverse":
        assert exponent is not None
        with np.errstate(over="ignore"):
            weights = fraction**-exponent
        if not np.isfinite(weights).all():
            raise UserError(
                f"alpha: inverse with beta {exponent:g} overflows: the rarest class has "
                f"{n.min():g} of {n.sum():g}. Set loss.alpha_beta to 1 or less."
            )
    elif scheme == "balanced":
        weights = n.sum() / (n.size * n)
    elif scheme == "median_frequency":
        freq = n / (n.sum() if holding is None else np.asarray(holding, dtype=np.float64))
        weights = np.median(freq) / freq
    elif scheme == "effective_number":
        assert exponent is not None
        weights = _inverse_effective_number(n, exponent)
    elif scheme == "enet":
        weights = 1 / np.log(1.02 + fraction)
    else:
        weights = n**-2.0
    return np.asarray(weights)


def compute_class_weights(class_rates: npt.ArrayLike, beta: float = 1.0) -> Floats:
    """Inverse frequency to the power beta, scaled to mean 1: `r**-beta / mean(r**-beta)`.

    Args:
        class_rates: Frequency of each class, `(C,)`, all > 0; counts do as well.
        beta: 1 is the inverse, 0.5 the inverse square root, 0 equal weights.

    Raises:
        ValueError: If a rate is not a positive number or beta is negative.

    Example:
        >>> compute_class_weights([0.8, 0.2]).tolist()
        [0.4, 1.6]
    """
    rates = np.asarray(class_rates, dtype=np.float64)
    if rates.size == 0 or not (np.isfinite(rates).all() and (rates > 0).all()):
        raise ValueError(f"class_rates must be positive and finite, got {rates.tolist()}.")
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta must be a finite number >= 0, got {beta}.")
    weights = (rates / rates.min()) ** -beta  # of the rarest 1, so that none overflows
    return np.asarray(weights / weights.mean())


def _inverse_effective_number(n: Floats, beta: float) -> Floats:
    """(1 - beta) / (1 - beta^n) without cancellation: 1 - beta^n = -expm1(n log beta)."""
    if beta == 0:
        return np.ones_like(n)
    return np.asarray((1 - beta) / -np.expm1(n * math.log(beta)))


def scheme_beta(scheme: Scheme, beta: float | None, total: int) -> float | None:
    """The beta in force; None for a scheme without one.

    Args:
        scheme: One of `SCHEMES`.
        beta: As the user gave it, or None.
        total: N, from which `effective_number` derives its beta 1 - 1/N.

    Raises:
        UserError: If the scheme is unknown, has no beta, or beta is out of its range.
    """
    if scheme not in SCHEMES:
        raise UserError(f"alpha: unknown scheme {scheme!r}. Known: {', '.join(SCHEMES)}.")
    if scheme == "inverse":
        beta = 1.0 if beta is None else beta
        if not (math.isfinite(beta) and beta >= 0):
            raise UserError(f"alpha: inverse needs a finite beta >= 0, got {beta}.")
        return beta
    if scheme == "effective_number":
        beta = 1 - 1 / total if beta is None else beta
        if not 0 <= beta < 1:
            raise UserError(f"alpha: effective_number needs 0 <= beta < 1, got {beta}.")
        return beta
    if beta is not None:
        raise UserError(f"alpha: {scheme} has no beta. Drop loss.alpha_beta.")
    return None
