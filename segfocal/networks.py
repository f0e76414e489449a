"""Networks by MONAI's name or a dotted path, checked against patch and channels before training."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

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


_MONAI_NETWORKS = "monai.networks.nets"


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
        UserError: If the name is unknown, cannot be imported, is no `nn.Module`, needs a package
            that is not there, or refuses `args`.
    """
    constructor = _constructor(name)
    merged = network_arguments(name, args, in_channels=in_channels, out_channels=out_channels)
    try:
        return constructor(**merged)
    except ImportError as error:
        raise _lacks_package(name, error) from None
    except (TypeError, ValueError, RuntimeError) as error:
        # On the meta device a network that reads numbers from tensors has an error of its own.
        if isinstance(error, RuntimeError) and "negative dimension" not in str(error):
            raise
        text = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"network.args: {name} refuses them: {text}.") from None


def network_arguments(
    name: str, args: Mapping[str, Any], *, in_channels: int, out_channels: int
) -> dict[str, Any]:
    """Every argument that `build_network` calls the network's class with: defaults, then `args`."""
    channels = {"in_channels": in_channels, "out_channels": out_channels}
    return {**_DEFAULTS.get(name, {}), **args, **channels}


def import_path(name: str) -> str:
    """The dotted path of a network's class: MONAI's for the names known here."""
    return f"{_MONAI_NETWORKS}.{name}" if name in _DEFAULTS else name


def size_divisors(
    make: Callable[[], nn.Module], patch_size: Sequence[int], in_channels: int
) -> tuple[int | None, ...]:
    """What the size of a volume must be a multiple of along each axis, for a network to take it.

    Found by sending volumes without data (meta tensors) through it, one axis changed at a time.

    Args:
        make: Builds the network; called on the meta device, so that no memory is taken, and on the
            CPU where that fails.
        patch_size: A size that the network takes.
        in_channels: Image channels.

    Returns:
        For each axis the divisor, or None where no size but the patch's will do.
    """
    network = _without_data(make)

    def takes(size: Sequence[int]) -> bool:
        volume = torch.empty(1, in_channels, *size, device="meta")
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logits = network(volume)
        except (RuntimeError, ValueError, IndexError, AssertionError):
            return False
        return isinstance(logits, torch.Tensor) and tuple(logits.shape[2:]) == tuple(size)

    divisors: list[int | None] = []
    for axis, patch in enumerate(patch_size):
        # The patch is a multiple of the divisor, and the patch plus k is one exactly if k is.
        longer = (
            (k, (*patch_size[:axis], patch + k, *patch_size[axis + 1 :]))
            for k in range(1, patch + 1)
            if patch % k == 0
        )
        divisors.append(next((k for k, size in longer if takes(size)), None))
    return tuple(divisors)


def set_prior_bias(
    network: nn.Module, shares: Sequence[float], activation: Literal["softmax", "sigmoid"]
) -> bool:
    """Starts the last convolution's bias where the network predicts each output's share of voxels.

    Args:
        network: Its last convolution with one output channel per share is changed in place.
        shares: Share of the voxels that each output holds, at least 0.1 % being assumed.
        activation: `sigmoid`: log(f / (1 - f)); `softmax`: log f, less its mean.

    Returns:
        Whether there was such a layer with a bias.

    Reference:
        Lin et al. 2017, arXiv:1708.02002, section 3.3.
    """
    convolutions = [
        module
        for module in network.modules()
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        and module.out_channels == len(shares)
        and module.bias is not None
    ]
    if not convolutions:
        return False
    share = torch.tensor(shares).clamp(1e-3, 1 - 1e-3)
    bias = share.logit() if activation == "sigmoid" else share.log() - share.log().mean()
    last = convolutions[-1].bias
    assert last is not None
    with torch.no_grad():
        last.copy_(bias)
    return True


def check_network(
    make: Callable[[], nn.Module], patch_size: tuple[int, ...], in_channels: int, out_channels: int
) -> None:
    """Sends one patch without data (meta tensors) through the network.

    Args:
        make: Builds the network; called on the meta device, so that no memory is taken, and on the
            CPU where that fails.
        patch_size: Spatial size of the patch.
        in_channels: Image channels.
        out_channels: Channels the logits must have.

    Raises:
        UserError: If the network cannot take the patch, needs a package that is not there, or gives
            logits of another shape.
    """
    size = "x".join(map(str, patch_size))
    network = _without_data(make)
    patch = torch.empty(1, in_channels, *patch_size, device="meta")
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logits = network(patch)
    except ImportError as error:
        raise _lacks_package(type(network).__name__, error) from None
    except (RuntimeError, ValueError, IndexError) as error:
        text = textwrap.shorten(str(error), 160, placeholder=" ...")
        suited = _size_that_suits(network, patch_size, in_channels)
        if suited is None:
            raise UserError(
                f"network.args: the network cannot take a patch of {size}, nor a larger one "
                f"({text}). Let its levels fit each other, and 3-D volumes."
            ) from None
        raise UserError(
            f"train.patch_size: the network cannot take a patch of {size} ({text}). One of "
            f"{list(suited)} suits it."
        ) from None
    expected = (1, out_channels, *patch_size)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UserError(
            f"network: expected logits of shape {expected} for a {size} patch, got {got}."
        )


def _size_that_suits(
    network: nn.Module, patch_size: Sequence[int], in_channels: int
) -> tuple[int, ...] | None:
    """A larger patch that a network on the meta device takes: None where there seems to be none."""
    for step in (16, 32, 64):
        larger = tuple(-(-size // step) * step for size in patch_size)
        with contextlib.suppress(RuntimeError, ValueError, IndexError):
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                network(torch.empty(1, in_channels, *larger, device="meta"))
            return larger
    return None


def check_trainable(
    make: Callable[[], nn.Module],
    patch_size: tuple[int, ...],
    in_channels: int,
    out_channels: int,
    *,
    batch_size: int = 2,
) -> None:
    """Sends patches without data through the network as in training, where it may have more heads.

    Args:
        make: As of `check_network`, which goes first; so do the others.
        patch_size: Spatial size of the patch.
        in_channels: Image channels.
        out_channels: Channels the logits must have.
        batch_size: Patches of a batch.

    Raises:
        UserError: If it has other outputs than one of logits, or normalises a batch of one voxel.
    """
    size = "x".join(map(str, patch_size))
    expected = (1, out_channels, *patch_size)
    patch = torch.empty(1, in_channels, *patch_size, device="meta")
    network = _without_data(make)
    if batch_size == 1 and _normalises_one_voxel(network, patch):
        raise UserError(
            f"train.batch_size: expected at least 2, got 1: the network normalises over the batch, "
            f"and a patch of {size} is a single voxel at its lowest level. Or set a larger "
            f"train.patch_size, or another norm in network.args."
        )
    trained = _training_output(network, patch)
    if trained is not None and trained != [expected]:
        several = " and ".join("x".join(map(str, shape)) for shape in trained)
        raise UserError(
            f"network.args: in training the network has outputs of shape {several} for a {size} "
            f"patch, as for deep supervision; expected one. Switch that off (deep_supervision: "
            f"false, dsdepth: 1), or train it in a script with DeepSupervisionLoss."
        )


def _lacks_package(name: str, error: ImportError) -> UserError:
    """MONAI looks for the packages that it can do without when they are first called."""
    why = str(error).strip().splitlines()[0].rstrip(".")
    return UserError(
        f"network.name: {name} needs a package that is not installed: {why}. Install it."
    )


def _normalises_one_voxel(network: nn.Module, patch: torch.Tensor) -> bool:
    """Whether torch refuses a patch in training because there is nothing to normalise over."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network.train()(patch)
    except ValueError as error:
        return str(error).startswith("Expected more than 1 value per channel")
    except (RuntimeError, IndexError, NotImplementedError):
        return False
    return False


def _training_output(network: nn.Module, patch: torch.Tensor) -> list[tuple[int, ...]] | None:
    """Shapes of what a network on the meta device gives in training; None where it cannot tell.

    Two patches are sent, which batch normalisation needs at the lowest level; the shapes are those
    of one.
    """
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = network.train()(patch.repeat(2, *(1,) * (patch.dim() - 1)))
    except (RuntimeError, ValueError, IndexError, NotImplementedError):
        return None
    listed = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    if not isinstance(listed, list | tuple) or not all(isinstance(o, torch.Tensor) for o in listed):
        return None
    return [(1, *output.shape[1:]) for output in listed]


def _without_data(make: Callable[[], nn.Module]) -> nn.Module:
    """A network on the meta device, in evaluation mode.

    One that reads numbers from tensors while it is built (SwinUNETR) is built on the CPU first.
    """
    try:
        with torch.device("meta"):
            return make().eval()
    except (RuntimeError, NotImplementedError):
        return make().to("meta").eval()


def _constructor(name: str) -> type[nn.Module]:
    """The class of that name.

    Nothing but a class of networks is ever called: the name may be that of somebody's checkpoint.
    """
    if name in _DEFAULTS:
        return getattr(importlib.import_module(_MONAI_NETWORKS), name)  # type: ignore[no-any-return]
    module_name, dot, attribute = name.rpartition(".")
    if not dot:
        by_lower = {known.lower(): known for known in _DEFAULTS}
        near = difflib.get_close_matches(name.lower(), by_lower, 1)
        hint = f" Did you mean {by_lower[near[0]]}?" if near else ""
        raise UserError(
            f"network.name: unknown network {name!r}.{hint} Known: {', '.join(_DEFAULTS)}, or a "
            f"dotted path such as monai.networks.nets.SwinUNETR."
        )
    try:
        constructor = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:  # "..x", ".5"
        raise UserError(f"network.name: cannot import {name}: {error}.") from None
    if not (isinstance(constructor, type) and issubclass(constructor, nn.Module)):
        raise UserError(
            f"network.name: {name} is not a class of networks (torch.nn.Module). Wrap a function "
            f"that makes one in such a class."
        )
    return constructor
