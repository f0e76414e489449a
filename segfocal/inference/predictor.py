"""Volume in, class map on the source's own grid out: what validation and segfocal-predict share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from monai.data.meta_tensor import MetaTensor
from torch import nn

from segfocal.checkpoint import Checkpoint
from segfocal.config.load import check_config, infer_of
from segfocal.config.schema import InferConfig
from segfocal.inference.components import keep_largest_component, remove_small_components
from segfocal.inference.device import place_network, resolve_amp, resolve_device, with_room
from segfocal.inference.ensemble import Ensemble
from segfocal.inference.mirrored import all_flips, mean_logits
from segfocal.inference.sliding_window import Slab, SlidingWindow
from segfocal.inference.source_grid import resampled, resampling_of
from segfocal.labels import ClassMap, LabelScheme
from segfocal.networks import build_network
from segfocal.transforms.pipelines import Preprocessing, preprocessing

_SLAB_BYTES = 8 << 20
"""Probabilities that are resampled and decided at once."""


class Segmentation(NamedTuple):
    """Class indices of one case.

    Attributes:
        on_source: On the grid of the file.
        on_image: On the preprocessed grid.
    """

    on_source: ClassMap
    on_image: ClassMap


class Predictor:
    """Sliding window, activation, inversion to the source grid, decision.

    Args:
        network: Maps `(B, channels, *patch)` to logits `(B, outputs, *patch)`.
        preprocessing: The pipeline of `transforms.pipelines.preprocessing`.
        scheme: What the outputs mean.
        patch_size: Window size along R, A, S.
        infer: Overlap, weighting, threshold, small components.
        device: Where windows are computed.
        amp_dtype: Precision of the forward pass; None is float32.
        flip_axes: Spatial axes of test-time flips; used where `infer.tta` is `flips`. Each window's
            logits are then averaged over its mirror images, as nnU-Net does.
    """

    def __init__(
        self,
        network: nn.Module,
        preprocessing: Preprocessing,
        scheme: LabelScheme,
        *,
        patch_size: Sequence[int],
        infer: InferConfig,
        device: torch.device,
        amp_dtype: torch.dtype | None = None,
        flip_axes: Sequence[int] = (),
    ) -> None:
        self.network = network
        self.preprocessing = preprocessing
        self.scheme = scheme
        self.patch_size = tuple(patch_size)
        self.infer = infer
        self.device = device
        self.amp_dtype = amp_dtype
        self.flips = all_flips(() if infer.tta == "none" else flip_axes)

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        *others: Checkpoint,
        device: str = "auto",
        tta: str | None = None,
        overrides: Sequence[str] = (),
    ) -> Predictor:
        """The predictor of a trained run, or of several whose logits are averaged.

        Args:
            checkpoint: From `load_checkpoint`.
            others: More members of an ensemble, of which `ensemble.check_alike` thinks well. The
                first one's settings of `infer` count.
            device: auto, cpu, cuda or cuda:N.
            tta: `none` or `flips`; None is what the run declares.
            overrides: `infer.setting=value` strings over the run's settings.

        Raises:
            UserError: If a network cannot be built here, the device is not there, or an override
                is none of the section `infer`.
        """
        config = check_config(checkpoint.config, "checkpoint").config
        where = resolve_device(device)
        networks = [trained_network(member) for member in (checkpoint, *others)]
        network = place_network(Ensemble(networks) if others else networks[0], where)
        asked = overrides if tta is None else (*overrides, f"infer.tta={tta}")
        return cls(
            network,
            preprocessing(
                config.data, checkpoint.scheme, checkpoint.file_channels, checkpoint.channels
            ),
            checkpoint.scheme,
            patch_size=config.train.patch_size,
            infer=infer_of(checkpoint.config, asked),
            device=where,
            amp_dtype=resolve_amp(config.train.amp, where),
            flip_axes=config.train.augment.flip_axes,
        )

    @torch.inference_mode()
    def segment(self, image: MetaTensor) -> Segmentation:
        """The class of every voxel, small components removed.

        The probabilities of a whole volume are never held, except where the scanner's axes are
        sheared and the image was resampled. The network computes in evaluation mode and is left in
        the mode it was in.

        Args:
            image: A preprocessed `(C, *S)` image with its applied operations.

        Raises:
            ValueError: If the image is a plain tensor or was prepared by another pipeline, or the
                network returns anything but one tensor of its input's size.
        """
        window, resampling = self._own_window(image), resampling_of(image)
        if resampling is not None and resampling.is_sheared:
            return self._segment_at_once(image)
        on_image = np.empty(window.shape, dtype=np.uint8)
        slabs = self._decided(self._sweep(window, image), window.axis, on_image)
        affine, unresampled = image.affine, on_image
        if resampling is not None:
            affine, unresampled = resampling.affine, np.empty(resampling.shape, dtype=np.uint8)
            planes = self._planes_at_once(resampling.shape, window.axis)
            slabs = resampled(slabs, resampling, axis=window.axis, most_planes=planes)
            slabs = self._decided(slabs, window.axis, unresampled)
        for _ in slabs:
            pass
        turned = MetaTensor(
            torch.from_numpy(unresampled)[None],
            affine=affine,
            applied_operations=image.applied_operations[:1],
        )
        source = self.preprocessing.to_file_axes(turned)
        return Segmentation(
            on_source=self._clean(source.as_tensor()[0].numpy(), source.affine),
            on_image=self._clean(on_image, image.affine),
        )

    def predict(self, image: MetaTensor) -> ClassMap:
        """Class indices on the source grid, small components removed."""
        return self.segment(image).on_source

    @torch.inference_mode()
    def predict_with_probabilities(self, image: MetaTensor) -> tuple[ClassMap, MetaTensor]:
        """Class indices on the source grid as `predict`, and the probabilities they come from.

        Args:
            image: As of `segment`.

        Returns:
            Classes `(*S)`, and float32 probabilities `(K, *S)` of all outputs, in memory.
        """
        self._own_window(image)
        source = self.on_source_grid(self.probabilities(image))
        return self._classes(source), source

    @torch.inference_mode()
    def probabilities(self, image: MetaTensor) -> MetaTensor:
        """Probabilities of every output on the preprocessed grid, all of them in memory.

        Args:
            image: As of `segment`.

        Returns:
            float32 `(K, *S)` on the CPU, a MetaTensor with the image's grid.

        Raises:
            ValueError: As `segment`.
        """
        window = self._window(image)
        slabs = [slab.values.cpu() for slab in self._sweep(window, image)]
        return MetaTensor(
            torch.cat(slabs, window.axis + 1),
            affine=image.affine,
            applied_operations=list(image.applied_operations),
        )

    def on_source_grid(self, probabilities: MetaTensor) -> MetaTensor:
        """Undoes orientation and resampling."""
        return self.preprocessing.to_source(probabilities)

    def decide(self, probabilities: torch.Tensor) -> ClassMap:
        """Class indices `(*S)` from probabilities `(K, *S)`: argmax, or painted regions."""
        probs = (
            probabilities.as_tensor() if isinstance(probabilities, MetaTensor) else probabilities
        )
        if self.scheme.activation == "softmax":
            return probs.argmax(0).to(torch.uint8).cpu().numpy()
        return self.scheme.paint((probs > self.infer.threshold).cpu().numpy())

    def _segment_at_once(self, image: MetaTensor) -> Segmentation:
        probabilities = self.probabilities(image)
        return Segmentation(
            on_source=self._classes(self.on_source_grid(probabilities)),
            on_image=self._classes(probabilities),
        )

    def _classes(self, probabilities: MetaTensor) -> ClassMap:
        return self._clean(self.decide(probabilities), probabilities.affine)

    def _own_window(self, image: MetaTensor) -> SlidingWindow:
        """`_window` of an image whose way back to the file is known."""
        window = self._window(image)
        self.preprocessing.check_own(image)
        return window

    def _window(self, image: MetaTensor) -> SlidingWindow:
        if not isinstance(image, MetaTensor):
            raise ValueError(
                f"image must be a MetaTensor, which knows its grid: got a {type(image).__name__}. "
                f'Pass preprocessing(case)["image"].'
            )
        shape = tuple(int(size) for size in image.shape[1:])
        return SlidingWindow(shape, self.patch_size, self.infer.overlap, self.infer.mode)

    def _sweep(self, window: SlidingWindow, image: MetaTensor) -> Iterator[Slab]:
        """Probabilities, slab by slab."""
        logits = window.sweep(
            torch.as_tensor(image.as_tensor()),
            self._logits,
            batch_size=self.infer.sw_batch_size,
            slab_bytes=_SLAB_BYTES,
            blend_on=lambda outputs: with_room(self.device, window.held_bytes(outputs)),
        )
        is_softmax = self.scheme.activation == "softmax"
        with _evaluating(self.network):
            for start, values in logits:
                yield Slab(start, values.softmax(0) if is_softmax else values.sigmoid_())

    def _logits(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits of windows `(N, C, *patch)`, averaged over the flips."""
        enabled = self.amp_dtype is not None
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=enabled):
            return mean_logits(self.network, windows.to(self.device), self.flips)

    def _decided(self, slabs: Iterable[Slab], axis: int, classes: ClassMap) -> Iterator[Slab]:
        """The same slabs, the classes of their voxels written down on the way."""
        for slab in slabs:
            decided = self.decide(slab.values)
            place = [slice(None)] * classes.ndim
            place[axis] = slice(slab.start, slab.start + decided.shape[axis])
            classes[tuple(place)] = decided
            yield slab

    def _planes_at_once(self, shape: Sequence[int], axis: int) -> int:
        plane = math.prod(size for other, size in enumerate(shape) if other != axis)
        return max(_SLAB_BYTES // (4 * self.scheme.num_outputs * plane), 1)

    def _clean(self, classes: ClassMap, affine: torch.Tensor) -> ClassMap:
        """`classes` without the components that `infer` does not want."""
        voxel_mm3 = float(torch.linalg.det(affine[:3, :3].double()).abs())
        kept = remove_small_components(
            classes, min_volume_mm3=self.infer.min_lesion_mm3, voxel_mm3=voxel_mm3
        )
        return keep_largest_component(kept) if self.infer.keep_largest else kept


def trained_network(checkpoint: Checkpoint) -> nn.Module:
    """The network of a checkpoint with the weights to predict with, on the CPU.

    Raises:
        UserError: If it cannot be built here.
    """
    config = check_config(checkpoint.config, "checkpoint").config
    network = build_network(
        config.network.name,
        config.network.args,
        in_channels=len(checkpoint.channels),
        out_channels=checkpoint.scheme.num_outputs,
    )
    network.load_state_dict(checkpoint.model)
    return network


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, and then for each module the mode that it was in."""
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
