"""Everything random about one patch, drawn before a voxel is touched."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from segfocal.config.schema import AugmentConfig
from segfocal.transforms.crop_centres import Indices

CHANGE_PROB = 0.8
"""How often contrast, and how often brightness, is changed."""

NOISE_PROB = 0.2
"""How often noise is added."""


@dataclass(frozen=True)
class PatchDraw:
    """What happens to one patch.

    Attributes:
        start: First voxel of the crop on each axis.
        angle: Rotation in the plane of the first two axes, radians; 0 is none.
        zoom: Length of a step in the volume for a step of one voxel in the patch, on both of those
            axes: below 1 magnifies.
        flips: Spatial axes that are mirrored.
        gain: Factor of the intensities.
        shift: Added to the intensities, after the factor.
        noise_std: Standard deviation of the noise; 0 is none.
        noise_seed: Seed of the noise's own generator.
        dropped: The channel that is blanked; None for none.
    """

    start: tuple[int, ...]
    angle: float = 0.0
    zoom: float = 1.0
    flips: tuple[int, ...] = ()
    gain: float = 1.0
    shift: float = 0.0
    noise_std: float = 0.0
    noise_seed: int = 0
    dropped: int | None = None


def draw_patch(
    random: np.random.RandomState,
    shape: Sequence[int],
    size: Sequence[int],
    indices: Sequence[Indices],
    ratios: Sequence[float],
    augment: AugmentConfig,
    num_channels: int = 1,
) -> PatchDraw:
    """Where to cut and what to change, with the probabilities of MONAI's transforms.

    Args:
        random: The generator; nothing else is random.
        shape: Spatial size of the volume, on no axis smaller than `size`.
        size: Spatial size of the patch.
        indices: For each class the flat indices of voxels to centre a crop on; some may be empty.
        ratios: How often each class is the centre; those of empty ones go to the others.
        augment: The settings of `train.augment`.
        num_channels: Channels of the image; the only one is never blanked.

    Raises:
        ValueError: If every list is empty.
    """
    start = draw_start(random, shape, size, indices, ratios)
    angle, zoom = 0.0, 1.0
    if random.random_sample() < augment.affine_prob:
        limit = math.radians(augment.rotate_degrees)
        angle = random.uniform(-limit, limit)
        zoom = 1 + random.uniform(-augment.scale, augment.scale)
    flips = tuple(axis for axis in augment.flip_axes if random.random_sample() < 0.5)
    gain, shift, noise_std, noise_seed = 1.0, 0.0, 0.0, 0
    if augment.intensity_scale > 0 and random.random_sample() < CHANGE_PROB:
        gain = 1 + random.uniform(-augment.intensity_scale, augment.intensity_scale)
    if augment.intensity_shift > 0 and random.random_sample() < CHANGE_PROB:
        shift = random.uniform(-augment.intensity_shift, augment.intensity_shift)
    if augment.noise_std > 0 and random.random_sample() < NOISE_PROB:
        noise_std = random.uniform(0, augment.noise_std)
        noise_seed = int(random.randint(2**31))
    dropped = None
    droppable = num_channels > 1 and augment.channel_drop_prob > 0
    if droppable and random.random_sample() < augment.channel_drop_prob:
        dropped = int(random.randint(num_channels))
    return PatchDraw(start, angle, zoom, flips, gain, shift, noise_std, noise_seed, dropped)


def draw_start(
    random: np.random.RandomState,
    shape: Sequence[int],
    size: Sequence[int],
    indices: Sequence[Indices],
    ratios: Sequence[float],
) -> tuple[int, ...]:
    """First voxel of a crop round a voxel of a drawn class, moved inside the volume."""
    weights = _weights(indices, ratios)
    drawn = random.random_sample() * weights[-1]
    # side="right": a class of weight 0 is never drawn, not even by a draw of exactly 0.
    chosen = indices[int(np.searchsorted(weights, drawn, side="right"))]
    index = int(chosen[random.randint(len(chosen))])
    centre = np.unravel_index(index, tuple(shape))
    return tuple(
        min(max(int(c) - s // 2, 0), n - s) for c, s, n in zip(centre, size, shape, strict=True)
    )


def _weights(indices: Sequence[Indices], ratios: Sequence[float]) -> npt.NDArray[np.float64]:
    """Running sum of the ratios of the classes that have voxels; of equal ones if those are 0."""
    there = [len(index) > 0 for index in indices]
    if not any(there):
        raise ValueError("no voxel to centre a crop on: every list of indices is empty.")
    weights = np.cumsum([ratio * is_there for ratio, is_there in zip(ratios, there, strict=True)])
    return weights if weights[-1] > 0 else np.cumsum(np.asarray(there, dtype=np.float64))
