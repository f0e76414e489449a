"""From tissue fractions to what a scanner would store: contrast, bias, partial volume, noise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from segfocal.data.phantom.anatomy import Anatomy
from segfocal.data.phantom.geometry import Grid, Volume
from segfocal.data.phantom.lesions import ENHANCING, NON_ENHANCING, Lesions

CHANNELS = ("FLAIR", "T1w", "T1gd", "T2w")

#                      FLAIR  T1w  T1gd  T2w
TISSUE: dict[str, tuple[float, float, float, float]] = {
    "csf": (0.14, 0.22, 0.22, 1.00),
    "grey": (0.58, 0.55, 0.57, 0.60),
    "white": (0.47, 0.76, 0.78, 0.42),
    "oedema": (0.72, 0.54, 0.55, 0.68),
    "non_enhancing": (0.46, 0.36, 0.38, 0.92),
    "enhancing": (0.65, 0.48, 0.97, 0.72),
    "vessel": (0.27, 0.52, 1.17, 0.30),
    "plexus": (0.64, 0.48, 1.02, 0.80),
    "cap": (0.86, 0.62, 0.64, 0.72),
}
"""Mean signal per tissue, on a scale where 1 is bright."""


def acquire(
    grid: Grid, anatomy: Anatomy, lesions: Lesions, rng: np.random.Generator
) -> npt.NDArray[np.int16]:
    """The four stored channels of a case.

    Contrast varies from case to case; a smooth bias field, blur within a voxel and Rician noise
    follow, then a gain per channel. Outside the brain the signal is exactly 0, inside at least 1.

    Returns:
        `(4, *S)` int16, in the order of `CHANNELS`.
    """
    weights = _weights(anatomy, lesions)
    stored = np.zeros((len(CHANNELS), *grid.shape), dtype=np.int16)
    texture = grid.noise(rng, 4.0)
    for channel in range(len(CHANNELS)):
        signal = np.zeros(grid.shape, dtype=np.float32)
        for name, weight in weights.items():
            mean = TISSUE[name][channel] * (1 + 0.05 * rng.standard_normal())
            brighter = lesions.vigour if name == "enhancing" and channel == 2 else 1.0
            signal += weight * np.float32(mean) * brighter
        signal *= 1 + 0.025 * texture
        signal = grid.blur(signal, 0.5 * grid.voxel_mm)
        signal *= np.exp(rng.uniform(0.12, 0.26) * grid.slow_noise(rng))
        signal = _rician(signal, float(rng.uniform(0.02, 0.045)), rng)
        gain = float(np.exp(rng.uniform(np.log(200), np.log(1200))))
        clipped = np.clip(np.round(signal * gain), 1, np.iinfo(np.int16).max)
        stored[channel] = np.where(anatomy.brain, clipped, 0).astype(np.int16)
    return stored


def _weights(anatomy: Anatomy, lesions: Lesions) -> dict[str, Volume]:
    """Fraction of each voxel that each tissue fills; they sum to 1."""
    core = lesions.classes >= NON_ENHANCING
    healthy = np.where(core, 0, 1 - 0.9 * lesions.oedema).astype(np.float32)
    plexus = np.where(core, 0, anatomy.plexus) * 0.9
    vessel = np.where(core, 0, anatomy.vessels) * 0.9 * (1 - plexus)
    bright = vessel + plexus
    cap = anatomy.caps * anatomy.white * (lesions.oedema == 0) * healthy * (1 - bright)
    background = healthy * (1 - bright) - cap
    return {
        "csf": background * anatomy.csf,
        "grey": background * anatomy.grey,
        "white": background * anatomy.white,
        "oedema": np.where(core, 0, 0.9 * lesions.oedema * (1 - bright)),
        "non_enhancing": (lesions.classes == NON_ENHANCING).astype(np.float32),
        "enhancing": (lesions.classes == ENHANCING).astype(np.float32),
        "vessel": vessel,
        "plexus": plexus,
        "cap": cap,
    }


def _rician(signal: Volume, sigma: float, rng: np.random.Generator) -> Volume:
    """Magnitude of a complex signal with Gaussian noise in both parts."""
    real = signal + sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    imaginary = sigma * rng.standard_normal(signal.shape, dtype=np.float32)
    return np.asarray(np.hypot(real, imaginary), dtype=np.float32)
