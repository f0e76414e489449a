"""Prediction as an inferer of MONAI's: what a bundle's evaluator calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import decollate_batch
from monai.inferers.inferer import Inferer
from torch import nn

from segfocal.config.load import check_infer
from segfocal.errors import UserError
from segfocal.inference.device import resolve_amp
from segfocal.inference.predictor import Predictor
from segfocal.labels import LabelScheme
from segfocal.transforms.pipelines import Preprocessing


class PredictorInferer(Inferer):  # type: ignore[misc]
    """Prepared images to class indices on the grid of their file, as `segfocal-predict` has them.

    Where MONAI's `SlidingWindowInferer` gives logits of the whole volume, to be activated, taken
    back to the file's grid and decided, this does all of it slab by slab (`inference.predictor`),
    and never holds the outputs of the whole volume.

    Args:
        preprocessing: What made the images; it takes the result back to the file's axes.
        scheme: What the network's outputs mean.
        patch_size: Window size along R, A, S.
        infer: Settings of the config's section `infer`, by name; defaults for the others.
        flip_axes: Spatial axes of test-time flips; used where `infer` has `tta: flips`.
        amp: Precision of the forward pass, as `train.amp`: auto, bf16, fp16 or fp32.

    Raises:
        UserError: If a setting is unknown or out of its range.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        scheme: LabelScheme,
        *,
        patch_size: Sequence[int],
        infer: Mapping[str, Any] | None = None,
        flip_axes: Sequence[int] = (),
        amp: str = "auto",
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.scheme = scheme
        self.patch_size = tuple(patch_size)
        self.infer = check_infer(infer or {})
        self.flip_axes = tuple(flip_axes)
        self.amp = amp

    def __call__(
        self,
        inputs: torch.Tensor,
        network: nn.Module,
        *args: Any,  # noqa: ARG002 - MONAI's signature
        **kwargs: Any,  # noqa: ARG002
    ) -> MetaTensor:
        """Class indices of a batch of one.

        Args:
            inputs: A prepared image `(1, C, *S)`, a MetaTensor that knows its grid and operations.
            network: Maps windows `(B, C, *patch)` to logits `(B, outputs, *patch)`.
            args: Taken because MONAI's engines may pass them; there is no use for them.
            kwargs: As `args`.

        Returns:
            uint8 `(1, 1, X, Y, Z)`, a MetaTensor on the CPU.

        Raises:
            UserError: If there are more images: their files may be of different sizes.
        """
        if len(inputs) != 1:
            raise UserError(
                f"expected a batch of one image, got {len(inputs)}. Set the loader's batch_size: 1."
            )
        # As segfocal-predict does: the volume stays on the CPU, windows go to the device
        (image,) = decollate_batch(inputs.cpu())
        predictor = Predictor(
            network,
            self.preprocessing,
            self.scheme,
            patch_size=self.patch_size,
            infer=self.infer,
            device=inputs.device,
            amp_dtype=resolve_amp(self.amp, inputs.device),
            flip_axes=self.flip_axes,
        )
        return MetaTensor(torch.from_numpy(predictor.predict(image))[None, None])
