"""Volume in, class map on the source's own grid out: what validation and segfocal-predict share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, combinations
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.inferers.utils import sliding_window_inference
from torch import nn

from segfocal.checkpoint import Checkpoint
from segfocal.config.load import check_config
from segfocal.config.schema import InferConfig
from segfocal.inference.components import keep_largest_component, remove_small_components
from segfocal.inference.device import place_network, resolve_amp, resolve_device
from segfocal.labels import ClassMap, LabelScheme
from segfocal.networks import build_network
from segfocal.transforms.pipelines import Preprocessing, preprocessing


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
        flip_axes: Spatial axes of test-time flips; used where `infer.tta` is `flips`.
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
        self.flips = [()] if infer.tta == "none" else list(_subsets(flip_axes))

    @classmethod
    def from_checkpoint(
        cls, checkpoint: Checkpoint, *, device: str = "auto", tta: str | None = None
    ) -> Predictor:
        """The predictor of a trained run.

        Args:
            checkpoint: From `load_checkpoint`.
            device: auto, cpu, cuda or cuda:N.
            tta: `none` or `flips`; None is what the run declares.

        Raises:
            UserError: If the network cannot be built here, or the device is not there.
        """
        config = check_config(checkpoint.config, "checkpoint").config
        where = resolve_device(device)
        network = build_network(
            config.network.name,
            config.network.args,
            in_channels=len(checkpoint.channels),
            out_channels=checkpoint.scheme.num_outputs,
        )
        network.load_state_dict(checkpoint.model)
        network = place_network(network, where)
        infer = config.infer if tta is None else config.infer.model_copy(update={"tta": tta})
        return cls(
            network,
            preprocessing(
                config.data, checkpoint.scheme, checkpoint.file_channels, checkpoint.channels
            ),
            checkpoint.scheme,
            patch_size=config.train.patch_size,
            infer=infer,
            device=where,
            amp_dtype=resolve_amp(config.train.amp, where),
            flip_axes=config.train.augment.flip_axes,
        )

    @torch.inference_mode()
    def probabilities(self, image: MetaTensor) -> MetaTensor:
        """Probabilities of every output on the preprocessed grid.

        The network computes in evaluation mode and is left in the mode it was in.

        Args:
            image: A preprocessed `(C, *S)` image with its applied operations.

        Returns:
            float32 `(K, *S)` on the CPU, a MetaTensor with the image's grid.

        Raises:
            ValueError: If the image is a plain tensor, or the network returns anything but one.
        """
        if not isinstance(image, MetaTensor):
            raise ValueError(
                f"image must be a MetaTensor, which knows its grid: got a {type(image).__name__}. "
                f'Pass preprocessing(case)["image"].'
            )
        volume = torch.as_tensor(image.as_tensor())[None]
        total: torch.Tensor | None = None
        with _evaluating(self.network):
            for flip in self.flips:
                axes = [axis + 2 for axis in flip]
                logits = self._logits(volume.flip(axes)).flip(axes)
                by_class = self.scheme.activation == "softmax"
                probs = logits.softmax(1) if by_class else logits.sigmoid()
                total = probs if total is None else total.add_(probs)
        assert total is not None
        mean = total[0].div_(len(self.flips))
        return MetaTensor(
            mean, affine=image.affine, applied_operations=list(image.applied_operations)
        )

    def _logits(self, volume: torch.Tensor) -> torch.Tensor:
        enabled = self.amp_dtype is not None
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=enabled):
            logits = sliding_window_inference(
                volume,
                self.patch_size,
                self.infer.sw_batch_size,
                self.network,
                overlap=self.infer.overlap,
                mode=self.infer.mode,
                sw_device=self.device,
                device=torch.device("cpu"),
                padding_mode="constant",
            )
        if not isinstance(logits, torch.Tensor):
            raise ValueError(
                f"network must return one tensor of logits: got a {type(logits).__name__}. Return "
                f"the output at full size alone."
            )
        return logits.float()

    def on_source_grid(self, probabilities: MetaTensor) -> MetaTensor:
        """Undoes orientation and resampling."""
        return self.preprocessing.to_source(probabilities)

    def decide(self, probabilities: torch.Tensor) -> ClassMap:
        """Class indices `(*S)` from probabilities `(K, *S)`: argmax, or painted regions."""
        probs = (
            probabilities.as_tensor() if isinstance(probabilities, MetaTensor) else probabilities
        )
        if self.scheme.activation == "softmax":
            return probs.argmax(0).to(torch.uint8).numpy()
        return self.scheme.paint((probs > self.infer.threshold).numpy())

    def predict(self, image: MetaTensor) -> ClassMap:
        """Class indices on the source grid, small components removed."""
        source = self.on_source_grid(self.probabilities(image))
        return self.clean(self.decide(source), source)

    def clean(self, classes: ClassMap, grid: MetaTensor) -> ClassMap:
        """`classes` without the components that `infer` does not want."""
        voxel_mm3 = float(torch.linalg.det(grid.affine[:3, :3].double()).abs())
        kept = remove_small_components(
            classes, min_volume_mm3=self.infer.min_lesion_mm3, voxel_mm3=voxel_mm3
        )
        return keep_largest_component(kept) if self.infer.keep_largest else kept


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


def _subsets(axes: Sequence[int]) -> Any:
    return chain.from_iterable(combinations(axes, n) for n in range(len(axes) + 1))
