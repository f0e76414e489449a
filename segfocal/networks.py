"""Networks by MONAI's name or a dotted path, checked against patch and channels before training."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from segfocal.errors import UserError

_DEFAULTS: dict[str, dict[str, Any]] = {
    "SegResNet": {"spatial_dims": 3, "init_filters": 16},
    "UNet": {
        "spatial_dims": 3,
        "channels": (16, 32, 64, 128),
        "strides": (2, 2, 2),
        "num_res_units": 2,
    },
    "DynUNet": {
        "spatial_dims": 3,
        "kernel_size": (3, 3, 3, 3, 3),
        "strides": (1, 2, 2, 2, 2),
        "upsample_kernel_size": (2, 2, 2, 2),
        "filters": (16, 32, 64, 128, 256),
        "res_block": True,
    },
}


def build_network(
    name: str, args: Mapping[str, Any], *, in_channels: int, out_channels: int
) -> nn.Module:
    """A network that maps `(B, in_channels, *S)` to logits `(B, out_channels, *S)`.

    Args:
        name: `SegResNet`, `UNet`, `DynUNet` (MONAI's, with defaults), or `package.module.Class`.
        args: Arguments over the defaults, by the class's own names.
        in_channels: Image channels.
        out_channels: Classes or regions.

    Raises:
        UserError: If the name is unknown, cannot be imported, is no `nn.Module`, or refuses `args`.
    """
    constructor = _constructor(name)
    merged = {**_DEFAULTS.get(name, {}), **args}
    merged.update(in_channels=in_channels, out_channels=out_channels)
    try:
        network = constructor(**merged)
    except (TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(f"network.args: {name} refuses them: {text}.") from None
    if not isinstance(network, nn.Module):
        raise UserError(f"network.name: {name} makes a {type(network).__name__}, not an nn.Module.")
    return network


def check_network(
    make: Callable[[], nn.Module], patch_size: tuple[int, ...], in_channels: int, out_channels: int
) -> None:
    """Sends one patch without data (meta tensors) through the network.

    Args:
        make: Builds the network; called on the meta device, so no memory is taken.
        patch_size: Spatial size of the patch.
        in_channels: Image channels.
        out_channels: Channels the logits must have.

    Raises:
        UserError: If the network cannot take the patch, or gives logits of another shape.
    """
    size = "x".join(map(str, patch_size))
    with torch.device("meta"):
        network = make().eval()
        patch = torch.empty(1, in_channels, *patch_size)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = network(patch)
    except (RuntimeError, ValueError, IndexError) as error:
        text = " ".join(str(error).split())[:160]
        raise UserError(
            f"train.patch_size: the network cannot take a patch of {size}; sizes divisible by 16 "
            f"suit every network here ({text})."
        ) from None
    expected = (1, out_channels, *patch_size)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(
            f"network: expected logits of shape {expected} for a {size} patch, got {got}."
        )


def _constructor(name: str) -> Callable[..., Any]:
    if name in _DEFAULTS:
        return getattr(importlib.import_module("monai.networks.nets"), name)  # type: ignore[no-any-return]
    module_name, dot, attribute = name.rpartition(".")
    if not dot:
        raise UserError(
            f"network.name: unknown network {name!r}. Known: {', '.join(_DEFAULTS)}, or a dotted "
            f"path such as monai.networks.nets.SwinUNETR."
        )
    try:
        constructor = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UserError(f"network.name: cannot import {name}: {error}.") from None
    if not callable(constructor):
        raise UserError(f"network.name: {name} is not a class.")
    return constructor  # type: ignore[no-any-return]
