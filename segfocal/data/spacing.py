"""The voxel sizes that a network was trained on, and what lies outside of them."""

from __future__ import annotations

from collections.abc import Sequence

Spacing = tuple[float, float, float]
"""Edge lengths of a voxel along R, A, S, in mm."""

SpacingRange = tuple[Spacing, Spacing]
"""The smallest and the largest along each axis."""

_TOLERANCE = 1.25
"""Scanners of one protocol differ by less; a case resampled to another grid by more."""


def spacing_range(spacings_mm: Sequence[Spacing]) -> SpacingRange:
    """The smallest and the largest voxel size along each axis.

    Example:
        >>> spacing_range([(1.0, 1.0, 3.0), (0.5, 2.0, 3.0)])
        ((0.5, 1.0, 3.0), (1.0, 2.0, 3.0))
    """
    r, a, s = zip(*spacings_mm, strict=True)
    return (min(r), min(a), min(s)), (max(r), max(a), max(s))


def is_outside(spacing_mm: Spacing, trained: SpacingRange) -> bool:
    """Whether a voxel is over 1.25 times as long as any that was trained on, or as short.

    Example:
        >>> trained = ((1.0, 1.0, 3.0), (1.0, 1.0, 5.0))
        >>> is_outside((1.1, 1.0, 4.0), trained), is_outside((2.0, 2.0, 4.0), trained)
        (False, True)
    """
    return any(
        size * _TOLERANCE < low or size > high * _TOLERANCE
        for size, low, high in zip(spacing_mm, *trained, strict=True)
    )


def range_text(trained: SpacingRange) -> str:
    """`1x1x3 mm`, or `1x1x3 to 1x1x5 mm`."""
    low, high = ("x".join(f"{size:.3g}" for size in sizes) for sizes in trained)
    return f"{low} mm" if low == high else f"{low} to {high} mm"
