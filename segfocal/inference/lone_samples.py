"""Convolutions of a single small sample on the CPU, which torch computes by its slow kernels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FEW = 20480
"""Up to so many numbers in `(C, D, H)` of a lone sample torch leaves oneDNN out
(`ConvParams::use_mkldnn` in ATen/native/Convolution.cpp)."""


class LoneSampleConv3d(nn.Conv3d):
    """`nn.Conv3d` that computes a lone small sample as the first of two.

    For a batch of two torch takes oneDNN, and for one sample an unfolded copy and a matrix product:
    8 channels of 48 x 48 x 32 took 62 ms alone and 10 ms as two on one core.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """As `nn.Conv3d`."""
        is_lone = input.dim() == 5 and len(input) == 1 and input.dtype == torch.float32
        if not is_lone or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return super().forward(input)
        if input.shape[1:4].numel() > _FEW:
            return super().forward(input)
        return super().forward(torch.cat([input, input]))[:1]  # cat keeps a channels-last layout


def quicken_lone_samples(network: nn.Module) -> None:
    """Makes the 3-D convolutions of a network `LoneSampleConv3d`, where it can matter.

    Args:
        network: Changed in place; names and weights stay.
    """
    for module in network.modules():
        if type(module) is nn.Conv3d and module.groups == 1 and 1 < max(module.kernel_size) <= 3:
            module.__class__ = LoneSampleConv3d
