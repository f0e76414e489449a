"""Dropout that draws for the whole batch, of which this rank holds some samples.

A mask is a function of seed and step. Were it drawn for a rank's own samples, it would depend on
how many ranks there are, and ranks with one seed would blank the same places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def share_dropout(network: nn.Module, rows: range, total: int) -> None:
    """Makes every dropout layer draw what one process with the whole batch draws.

    `nn.functional.dropout` within a network's own code stays as it is.

    Args:
        network: Changed in place.
        rows: Which samples of the batch this process holds.
        total: How many the batch has.
    """
    for module in network.modules():
        if type(module) in _SHARED:
            module.__class__ = _SHARED[type(module)]
            module.rows, module.total = rows, total  # type: ignore[assignment]


def _shared(kind: type[nn.Module]) -> type[nn.Module]:
    class Shared(kind):  # type: ignore[misc, valid-type]
        rows: range
        total: int

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
            if not self.training:
                return input
            # Windows of a sample that stand on the batch axis belong to it.
            each, rest = divmod(input.shape[0], len(self.rows))
            if rest:
                dropped: Tensor = super().forward(input)
                return dropped
            whole = input.new_ones((self.total * each, *input.shape[1:]))
            if input.dim() == 5 and input.is_contiguous(memory_format=torch.channels_last_3d):
                whole = whole.contiguous(memory_format=torch.channels_last_3d)
            noise = super().forward(whole)
            kept: Tensor = input * noise[self.rows.start * each : self.rows.stop * each]
            return kept

    Shared.__name__ = Shared.__qualname__ = f"Shared{kind.__name__}"
    return Shared


_SHARED: dict[type[nn.Module], type[nn.Module]] = {
    kind: _shared(kind) for kind in (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
}
