"""What every loss on logits takes, and the one pass over the voxels that its terms share."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from segfocal import checks
from segfocal.checks import Activation, ClassNumbers, IgnoreIndex, Regions
from segfocal.ops.class_sums import ClassSums, as_fields, sums_with_backend
from segfocal.ops.flat_arguments import FlatArguments, flatten
from segfocal.ops.flat_target import validity

Reduction = Literal["mean", "sum", "none"]

REDUCTIONS = ("mean", "sum", "none")


class VoxelOptions(NamedTuple):
    """How logits and target are read.

    Attributes:
        activation: "softmax" or "sigmoid".
        ignore_index: Label or labels whose voxels do not count.
        regions: Class indices that make up each channel.
        check_target: Check the target's values on every device.
        backend: "auto", or a name from `segfocal.ops.backends()`.
    """

    activation: Activation = "softmax"
    ignore_index: IgnoreIndex = None
    regions: Regions = None
    check_target: bool = False
    backend: str = "auto"


class Voxels(NamedTuple):
    """Logits, target and which voxels count, with how they are read.

    Attributes:
        logits: `(B, C, *S)`.
        target: Labels or values per channel.
        mask: Bool `(B, 1, *S)` or `(B, C, *S)`, or None.
        options: How they are read.
    """

    logits: Tensor
    target: Tensor
    mask: Tensor | None
    options: VoxelOptions

    @property
    def num_channels(self) -> int:
        """C."""
        return self.logits.shape[1]


def plain_voxels(
    logits: Tensor, target: Tensor, mask: Tensor | None, options: VoxelOptions
) -> Voxels:
    """The voxels of a caller's tensors, without MONAI's `MetaTensor` around them.

    Raises:
        ValueError: If one of them is no tensor.
    """
    return Voxels(
        checks.plain_tensor("logits", logits),
        checks.plain_tensor("target", target),
        checks.optional_plain("mask", mask),
        options,
    )


class Summed(NamedTuple):
    """The sums of a batch.

    Attributes:
        values: `(B, 7, C)`, the fields of `ClassSums` along the second axis.
        backend: The name of the backend that computed them.
    """

    values: Tensor
    backend: str

    @property
    def fields(self) -> ClassSums:
        """The sums by name."""
        return as_fields(self.values)


def check_class_options(
    voxels: Voxels,
    *,
    alpha: ClassNumbers | None = None,
    weight: ClassNumbers | None = None,
    include_background: bool,
) -> None:
    """Refuse alpha or weights that do not fit the channels, and a background that is not there.

    Raises:
        ValueError: Naming the argument.
    """
    options = voxels.options
    num_channels = checks.check_logits(voxels.logits, options.activation)
    checks.check_background(
        include_background, num_channels, has_regions=options.regions is not None
    )
    checks.check_alpha(alpha, options.activation)
    checks.check_weight(weight)
    for name, numbers in (("alpha", alpha), ("weight", weight)):
        if numbers is not None:
            checks.check_class_shape(
                name, numbers, num_channels, include_background=include_background
            )


def sum_voxels(
    voxels: Voxels,
    *,
    gamma: ClassNumbers = 0.0,
    label_smoothing: float = 0.0,
    soft_label: bool = False,
) -> ClassSums:
    """The sums that every term of a loss is made of.

    Args:
        voxels: What to sum over.
        gamma: Focusing exponent of the focal sums.
        label_smoothing: Share of each voxel's target that is spread over the classes, in them.
        soft_label: Whether `tp` sums min(p, t), for targets between 0 and 1.
    """
    summed = sum_voxels_together(
        voxels, gamma=gamma, label_smoothing=label_smoothing, soft_label=soft_label
    )
    return summed.fields


def sum_voxels_together(
    voxels: Voxels,
    *,
    gamma: ClassNumbers = 0.0,
    label_smoothing: float = 0.0,
    soft_label: bool = False,
) -> Summed:
    """`sum_voxels`, all sums in one tensor, and with them what has computed it."""
    options = voxels.options
    sums, backend = sums_with_backend(
        voxels.logits,
        voxels.target,
        activation=options.activation,
        gamma=gamma,
        label_smoothing=label_smoothing,
        overlap="minimum" if soft_label else "product",
        ignore_index=options.ignore_index,
        mask=voxels.mask,
        regions=options.regions,
        check_target=options.check_target,
        backend=options.backend,
    )
    return Summed(sums, backend)


def flatten_voxels(voxels: Voxels) -> FlatArguments:
    """The voxels, checked, with one spatial axis."""
    options = voxels.options
    return flatten(
        voxels.logits,
        voxels.target,
        activation=options.activation,
        gamma=0.0,
        label_smoothing=0.0,
        ignore_index=options.ignore_index,
        mask=voxels.mask,
        regions=options.regions,
        check_target=options.check_target,
    )


def valid_voxels(voxels: Voxels) -> Tensor | None:
    """True where a voxel counts, `(B, 1, *S)` or `(B, C, *S)`; None where all do."""
    exclusive = voxels.options.activation == "softmax"
    each = validity(flatten_voxels(voxels).flat_target, exclusive=exclusive).each
    return None if each is None else each.view(*each.shape[:2], *voxels.logits.shape[2:])


def append_axes(loss: Tensor, logits: Tensor) -> Tensor:
    """`(B, C)` as `(B, C, 1, ...)`, which broadcasts against the logits."""
    return loss.view(*loss.shape, *(1,) * (logits.ndim - 2))


def safe_ratio(total: Tensor, count: Tensor) -> Tensor:
    """Total over count, and the total itself where nothing was counted."""
    return total / count.masked_fill(count == 0, 1)
