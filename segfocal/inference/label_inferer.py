"""A MONAI inferer that answers with labels instead of logits, and never holds all of those."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.inferer import Inferer
from monai.utils.misc import fall_back_tuple
from torch import Tensor

from segfocal.checks import check_word
from segfocal.inference.device import with_room
from segfocal.inference.mirrored import all_flips, mean_logits
from segfocal.inference.sliding_window import SlidingWindow
from segfocal.labels import LabelScheme

_SLAB_BYTES = 32 << 20
"""Logits that are decided at once."""


class SlidingWindowLabelInferer(Inferer):  # type: ignore[misc]
    """Sliding window to labels, for MONAI's evaluators and scripts.

    MONAI's `SlidingWindowInferer` returns K logits a voxel and holds a map of counts beside them:
    with 105 classes a scan of 512 x 512 x 800 takes 88 GB before `argmax` makes 0.2 GB of it. Here
    planes are decided as soon as no later window touches them, so that no more planes of logits
    are held than a window is long. The labels are those of `SlidingWindowInferer` with the same
    arguments and `argmax` (or sigmoid and threshold), but for voxels that tie within rounding.

    Args:
        roi_size: Window, one number or one for each spatial axis; 0 or less is the image's size.
        sw_batch_size: Windows a call of the network gets at most, of those that start on a plane.
        overlap: Share of a window that the next one covers again, in [0, 1); one number, or one for
            each spatial axis.
        mode: "constant" or "gaussian": how overlapping windows are weighed.
        activation: "softmax" for one class a voxel, "sigmoid" for channels of their own.
        threshold: Sigmoid: the probability above which a voxel is in a channel.
        scheme: Sigmoid: paints the regions to one class a voxel, as `segfocal-predict` does.
        flip_axes: Spatial axes of test-time flips, counted from 0: logits are averaged over every
            combination.
        sw_device: Where the network computes; None is the input's device.
        device: Of the labels; None is the input's.

    Raises:
        ValueError: If an option is out of range, or `scheme` has no regions.

    Example:
        >>> network = torch.nn.Conv3d(1, 3, 1)
        >>> inferer = SlidingWindowLabelInferer((16, 16, 16), overlap=0.5, mode="gaussian")
        >>> with torch.no_grad():
        ...     labels = inferer(torch.zeros(1, 1, 20, 20, 40), network)
        >>> labels.shape, labels.dtype
        (torch.Size([1, 1, 20, 20, 40]), torch.uint8)
    """

    def __init__(
        self,
        roi_size: Sequence[int] | int,
        sw_batch_size: int = 1,
        overlap: float | Sequence[float] = 0.25,
        mode: Literal["constant", "gaussian"] = "constant",
        *,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        threshold: float = 0.5,
        scheme: LabelScheme | None = None,
        flip_axes: Sequence[int] = (),
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_word("activation", activation, ("softmax", "sigmoid"))
        check_word("mode", str(mode), ("constant", "gaussian"))
        shares = tuple(overlap) if isinstance(overlap, (list, tuple)) else (overlap,)
        if not shares or not all(isinstance(s, (int, float)) and 0 <= s < 1 for s in shares):
            raise ValueError(
                f"overlap must be in [0, 1), one number or one for each spatial axis: got "
                f"{overlap!r}."
            )
        sizes = roi_size if isinstance(roi_size, Iterable) else (roi_size,)
        if not all(size is None or _is_whole(size) for size in sizes):
            raise ValueError(
                f"roi_size must be whole numbers, one or one for each spatial axis: got "
                f"{roi_size!r}."
            )
        if not _is_whole(sw_batch_size) or sw_batch_size < 1:
            raise ValueError(f"sw_batch_size must be 1 or more: got {sw_batch_size}.")
        if not 0 < threshold < 1:
            raise ValueError(f"threshold must lie between 0 and 1: got {threshold}.")
        if scheme is not None and scheme.activation != activation:
            raise ValueError(
                f"activation must be {scheme.activation} for this scheme: got {activation}."
            )
        self.roi_size = roi_size
        self.sw_batch_size = sw_batch_size
        self.overlap = float(shares[0]) if len(shares) == 1 else shares
        self.mode = str(mode)
        self.activation = activation
        self.threshold = threshold
        self.scheme = scheme
        self.flip_axes = tuple(flip_axes)
        all_flips(self.flip_axes)  # refuses what is no axis
        self.sw_device = sw_device
        self.device = device

    def __call__(
        self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Tensor:
        """Labels of a batch of volumes.

        Args:
            inputs: `(B, C, *S)`. A volume shorter than a window is padded with 0.
            network: Maps `(N, C, *roi_size)` to logits `(N, K, *roi_size)`; called as it is, so put
                it into evaluation mode first.
            args: Handed on to the network.
            kwargs: Handed on to the network.

        Returns:
            Class indices `(B, 1, *S)`; under sigmoid without a scheme 0 or 1 for each channel
            `(B, K, *S)`. uint8 up to 256 classes, else int16. A MetaTensor for a MetaTensor, with
            its grid and history, so that `Invertd` (with `nearest_interp=True`) can follow.

        Raises:
            ValueError: If `inputs` has no spatial axes or is empty, or the network returns anything
                but one tensor of its input's size with the outputs that `scheme` declares.
        """
        if inputs.ndim < 3 or inputs.numel() == 0:
            raise ValueError(f"inputs must be (B, C, *S), not empty: got {tuple(inputs.shape)}.")
        volumes = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs

        def call(windows: Tensor) -> Any:
            return network(windows, *args, **kwargs)

        with torch.no_grad():
            labels = torch.stack([self._labels(volume, call) for volume in volumes])
        if isinstance(inputs, MetaTensor):
            labels = MetaTensor(labels)
            labels.copy_meta_from(inputs)
        return labels

    def _labels(self, volume: Tensor, network: Callable[[Tensor], Any]) -> Tensor:
        """Labels `(1 or K, *S)` of a volume `(C, *S)`."""
        shape = tuple(volume.shape[1:])
        if isinstance(self.overlap, tuple) and len(self.overlap) != len(shape):
            raise ValueError(
                f"overlap must be one number or one for each of {len(shape)} spatial axes: got "
                f"{self.overlap}."
            )
        window = SlidingWindow(
            shape, tuple(fall_back_tuple(self.roi_size, shape)), self.overlap, self.mode
        )
        where = torch.device(volume.device if self.sw_device is None else self.sw_device)
        flips = all_flips(self.flip_axes)
        labels: Tensor | None = None
        slabs = window.sweep(
            volume,
            lambda windows: mean_logits(network, windows.to(where), flips),
            batch_size=self.sw_batch_size,
            slab_bytes=_SLAB_BYTES,
            blend_on=lambda outputs: with_room(where, window.held_bytes(outputs)),
        )
        for start, logits in slabs:
            decided = self._decide(logits)
            if labels is None:
                device = volume.device if self.device is None else self.device
                labels = decided.new_empty((len(decided), *shape), device=device)
            labels.narrow(window.axis + 1, start, decided.shape[window.axis + 1]).copy_(decided)
        assert labels is not None
        return labels

    def _decide(self, logits: Tensor) -> Tensor:
        """Labels `(1 or K, *S)` of logits `(K, *S)`."""
        num_outputs = len(logits)
        if self.scheme is not None and num_outputs != self.scheme.num_outputs:
            raise ValueError(
                f"network must have {self.scheme.num_outputs} outputs for this scheme: "
                f"got {num_outputs}."
            )
        if self.activation == "softmax":
            if num_outputs == 1:
                raise ValueError(
                    "network has one output, of which softmax makes class 0 everywhere. Pass "
                    "activation='sigmoid'."
                )
            dtype = torch.uint8 if num_outputs <= 256 else torch.int16
            return logits.argmax(0, keepdim=True).to(dtype)
        inside = logits.sigmoid() > self.threshold
        if self.scheme is None:
            return inside.to(torch.uint8)
        return torch.from_numpy(self.scheme.paint(inside.cpu().numpy()))[None]


def _is_whole(number: object) -> bool:
    return isinstance(number, Integral)
