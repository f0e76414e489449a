"""A random patch of a case and its random changes, in one pass over the patch alone."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.config.type_definitions import KeysCollection
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, Randomizable
from monai.utils.enums import TransformBackends
from monai.utils.misc import MAX_SEED, ensure_tuple_rep

from segfocal.config.schema import AugmentConfig
from segfocal.transforms.crop_centres import case_name
from segfocal.transforms.patch_draw import PatchDraw, draw_patch

Array = npt.NDArray[Any]

UNCHANGED = AugmentConfig(
    flip_axes=[], affine_prob=0, intensity_scale=0, intensity_shift=0, noise_std=0
)
"""A patch as it lies in the volume."""


class RandPatchd(Randomizable, MapTransform):
    """Crop, rotation, zoom, flips, contrast, brightness, noise and a blanked channel at once.

    Equal in effect to MONAI's chain `RandCropByLabelClassesd, RandAffined(padding_mode=
    "reflection"), RandFlipd, RandScaleIntensityd, RandShiftIntensityd, RandGaussianNoised`
    (tests compare them), at a fraction of the time: nothing is copied but the patch, no metadata
    is carried along, and a memory-mapped volume is read where the patch lies. The numbers drawn
    from a given seed are not MONAI's. Blanking one channel of several
    (`augment.channel_drop_prob`) comes last.

    Rotation and zoom act in the plane of the first two axes (R and A), the zoom by one factor on
    both; slices along the third stay where they are. `RandAffined(scale_range=0.15)` zooms its
    first axis alone, and `scale_range=(0.15, 0.15)` each by a factor of its own.

    Everything random is a function of `set_random_state(seed)`; the last draw stands in `draw`.

    Args:
        keys: Keys of what is cut, `(C, *S)` tensors or arrays on one grid.
        spatial_size: Size of the patch, one number for all axes or one for each; -1 is the whole
            axis. No axis of the volume may be shorter.
        indices_key: Key of the lists that `ClassCropIndicesd` or `LesionCropIndicesd` wrote.
        ratios: How often each class is the centre, >= 0; they need not sum to 1.
        augment: The settings of `train.augment`; None changes nothing. Its own defaults are for
            volumes: images have no axis 2 to flip, and signals no plane to turn in.
        mode: `bilinear` for images, which also get the intensity changes, `nearest` for labels;
            one for all or one for each key.
        allow_missing_keys: Pass over a missing key.

    Returns:
        On call, the data with a plain contiguous tensor of its own for each key, images as float32,
        without the indices.

    Raises:
        ValueError: If an argument is out of range. On call, naming the file: if the keys lie on
            different grids, the volume is smaller than the patch or has other axes than the
            arguments speak of, or no voxel can be the centre.

    Example:
        >>> case = {"image": torch.arange(10.0).reshape(1, 10), "indices": [np.array([6])]}
        >>> cut = RandPatchd("image", (4,), indices_key="indices", ratios=[1])
        >>> cut.set_random_state(seed=0)(case)["image"]
        tensor([[4., 5., 6., 7.]])
    """

    backend = (TransformBackends.TORCH,)

    def __init__(
        self,
        keys: KeysCollection,
        spatial_size: int | Sequence[int],
        *,
        indices_key: str,
        ratios: Sequence[float],
        augment: AugmentConfig | None = None,
        mode: str | Sequence[str] = "bilinear",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        sizes = (spatial_size,) if isinstance(spatial_size, int) else tuple(spatial_size)
        if not sizes or not all(size > 0 or size == -1 for size in sizes):
            raise ValueError(
                f"spatial_size must be positive, or -1 for a whole axis: got {spatial_size}."
            )
        self.spatial_size = spatial_size if isinstance(spatial_size, int) else sizes
        self.indices_key = indices_key
        self.ratios = tuple(ratios)
        if not self.ratios or not all(0 <= ratio < math.inf for ratio in self.ratios):
            raise ValueError(f"ratios must be finite numbers >= 0, one per class: got {ratios}.")
        self.augment = augment if augment is not None else UNCHANGED
        self.mode: tuple[str, ...] = ensure_tuple_rep(mode, len(self.keys))
        unknown = [name for name in self.mode if name not in ("bilinear", "nearest")]
        if unknown:
            raise ValueError(f"mode: expected bilinear or nearest, got {unknown[0]!r}.")
        self.draw: PatchDraw | None = None
        self._seeded = np.random.RandomState()

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandPatchd:
        """The generator for what follows: the numbers of MONAI's, at a sixtieth of the time.

        A patch is seeded anew each time, and making a generator takes a third as long as cutting.

        Args:
            seed: Seeds a generator that this transform keeps; a state given earlier is left alone.
            state: A generator to take instead; None, as the seed is, for one seeded by the system.
        """
        if isinstance(seed, int | np.integer):
            self._seeded.seed(int(seed) % MAX_SEED)
            self.R = self._seeded
        else:
            super().set_random_state(seed, state)
        return self

    def randomize(self, data: Mapping[Hashable, Any]) -> None:
        """Draws where to cut and what to change; stands in `draw`."""
        try:
            shape = self._shape(data)
            images = [
                len(data[key])
                for key, mode in self.key_iterator(data, self.mode)
                if mode == "bilinear"
            ]
            indices = data[self.indices_key]
            if len(indices) != len(self.ratios):
                raise ValueError(
                    f"ratios must have one number for each list in {self.indices_key}: expected "
                    f"{len(indices)}, got {len(self.ratios)}."
                )
            self.draw = draw_patch(
                self.R,
                shape,
                self._size(shape),
                indices,
                self.ratios,
                self.augment,
                num_channels=min(images, default=1),
            )
        except ValueError as error:
            raise ValueError(f"{case_name(data, self.keys[-1])}: {error}") from None

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cuts and changes every key alike."""
        out = dict(data)
        if self.first_key(out) == ():
            return out
        self.randomize(out)
        del out[self.indices_key]
        assert self.draw is not None
        size = self._size(self._shape(out))
        for key, mode in self.key_iterator(out, self.mode):
            out[key] = cut_patch(out[key], self.draw, size, image=mode == "bilinear")
        return out

    def _shape(self, data: Mapping[Hashable, Any]) -> tuple[int, ...]:
        """The spatial size that all keys have, checked against what `augment` does to axes."""
        shapes = {key: tuple(data[key].shape[1:]) for key in self.key_iterator(data)}
        first = next(iter(shapes))
        for key, shape in shapes.items():
            if shape != shapes[first]:
                raise ValueError(
                    f"{first} and {key} must lie on one grid: got {shapes[first]} and {shape}. "
                    f"Resample one of them first."
                )
        num_axes = len(shapes[first])
        beyond = [axis for axis in self.augment.flip_axes if axis >= num_axes]
        if beyond:
            raise ValueError(
                f"augment.flip_axes names axis {beyond[0]}, but {first} has {num_axes} spatial "
                f"axes. Leave it out."
            )
        if self.augment.affine_prob > 0 and num_axes < 2:
            raise ValueError(
                f"augment turns a plane, but {first} has one spatial axis. Set affine_prob=0."
            )
        return shapes[first]

    def _size(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Size of the patch in a volume of this spatial size."""
        asked = self.spatial_size
        sizes = (asked,) * len(shape) if isinstance(asked, int) else asked
        if len(sizes) != len(shape):
            raise ValueError(
                f"spatial_size must have one size per axis: expected {len(shape)}, got {asked}."
            )
        if any(n < size for n, size in zip(shape, sizes, strict=True)):
            raise ValueError(
                f"a patch of {sizes} does not fit into {tuple(shape)}. Pad the case, or take a "
                f"smaller patch."
            )
        return tuple(n if size == -1 else size for n, size in zip(shape, sizes, strict=True))


def cut_patch(volume: Any, draw: PatchDraw, size: Sequence[int], *, image: bool) -> torch.Tensor:
    """The patch that was drawn: a plain contiguous tensor that shares nothing with the volume.

    Computed in numpy, on one thread: a patch is too small for several, and where other programs
    want the same cores each torch operation would wait for all of its threads to be scheduled.

    Args:
        volume: `(C, *S)`.
        draw: Where and how.
        size: Spatial size.
        image: Interpolate, and change intensities; a label is neither.
    """
    whole = volume.as_tensor() if isinstance(volume, MetaTensor) else torch.as_tensor(volume)
    box = (slice(first, first + length) for first, length in zip(draw.start, size, strict=True))
    cut = whole[(slice(None), *box)].cpu()
    patch: Array = (cut.float() if image else cut).numpy()
    if draw.angle or draw.zoom != 1:
        patch = _turned(patch, draw.angle, draw.zoom, interpolate=image)
    mirrored = np.flip(patch, tuple(axis + 1 for axis in draw.flips))
    patch = mirrored.copy(order="C")
    if not image:
        return torch.from_numpy(patch)
    if draw.gain != 1 or draw.shift != 0:
        patch *= draw.gain
        patch += draw.shift
    if draw.noise_std > 0:
        generator = np.random.Generator(np.random.SFC64(draw.noise_seed))
        noise = generator.standard_normal(patch.shape, dtype=np.float32)
        noise *= draw.noise_std
        patch += noise
    if draw.dropped is not None:
        patch[draw.dropped] = 0
    return torch.from_numpy(patch)


def _turned(patch: Array, angle: float, zoom: float, *, interpolate: bool) -> Array:
    """Rotated and zoomed in the plane of the first two axes, about the centre.

    What lies outside is reflected, as in `grid_sample(padding_mode="reflection",
    align_corners=False)`. Slices across the other axes stay in place, so each of their voxels is
    made of four others of the same slice: four gathers of whole rows instead of a 3-D grid.
    """
    num_channels, height, width = patch.shape[:3]
    rows = patch.reshape(num_channels, height * width, -1)
    i = np.arange(height)[:, None] - (height - 1) / 2
    j = np.arange(width)[None] - (width - 1) / 2
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    x = _reflected(cos * i - sin * j + (height - 1) / 2, height)
    y = _reflected(sin * i + cos * j + (width - 1) / 2, width)
    if not interpolate:
        nearest = (np.rint(x) * width + np.rint(y)).astype(np.int64).ravel()
        turned: Array = rows.take(nearest, axis=1).reshape(patch.shape)
        return turned
    x0, y0 = np.floor(x), np.floor(y)
    x1, y1 = np.minimum(x0 + 1, height - 1), np.minimum(y0 + 1, width - 1)
    right, down = x - x0, y - y0
    total = np.zeros_like(rows)
    for row, column, weight in (
        (x0, y0, (1 - right) * (1 - down)),
        (x0, y1, (1 - right) * down),
        (x1, y0, right * (1 - down)),
        (x1, y1, right * down),
    ):
        part = rows.take((row * width + column).astype(np.int64).ravel(), axis=1)
        part *= weight.astype(np.float32).reshape(-1, 1)
        total += part
    return total.reshape(patch.shape)


def _reflected(coordinate: Array, length: int) -> Array:
    """Coordinates mirrored at the outer edges of the first and last voxel, then kept inside."""
    beyond = np.mod(coordinate + 0.5, 2 * length)
    inside = np.where(beyond < length, beyond, 2 * length - beyond) - 0.5
    return inside.clip(0, length - 1)
