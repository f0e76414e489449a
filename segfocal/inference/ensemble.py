"""Several checkpoints as one network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segfocal.checkpoint import Checkpoint
from segfocal.errors import UserError

PREPARATION = (
    "channel_dim",
    "resample_channels",
    "spacing_mm",
    "normalize",
)
"""Settings of `data` that decide what a network is shown of a case."""


class Ensemble(nn.Module):
    """The mean of several networks' logits, as nnU-Net takes it.

    Args:
        networks: Each maps `(B, channels, *patch)` to logits `(B, outputs, *patch)`.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        """Mean logits, float32."""
        first, *others = self.networks
        total: torch.Tensor = first(windows).float()
        for network in others:
            total = total + network(windows)
        return total.div(len(self.networks))


def check_alike(checkpoints: Mapping[Path, Checkpoint]) -> None:
    """Checks that the networks see a case alike and answer the same question.

    Args:
        checkpoints: By file.

    Raises:
        UserError: Naming the two files and what differs, if one differs from the first.
    """
    (first, expected), *others = checkpoints.items()
    for path, checkpoint in others:
        theirs = _shared(checkpoint)
        for name, value in _shared(expected).items():
            if theirs[name] != value:
                raise UserError(
                    f"--ckpt {path} differs from {first} in {name}: {theirs[name]}, not {value}. "
                    f"The runs of an ensemble must share that; predict with each alone."
                )


def _shared(checkpoint: Checkpoint) -> dict[str, Any]:
    data, scheme = checkpoint.config["data"], checkpoint.scheme
    return {
        "the classes": scheme.names,
        "the label values": scheme.values,
        "the regions": scheme.regions,
        "the channels": checkpoint.channels,
        "the files' channels": checkpoint.file_channels,
        **{f"data.{name}": data.get(name) for name in PREPARATION},
        "train.patch_size": tuple(checkpoint.config["train"]["patch_size"]),
    }
