"""Run folders without a training: a best.pt with random weights, which predict every class."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from segfocal.checkpoint import Checkpoint, save_checkpoint
from segfocal.config.load import load_config
from segfocal.networks import build_network
from segfocal.training.preflight import open_dataset
from tests.runs import TINY

TESTED = {"segfocal": "0", "torch": "0", "monai": "0"}


def write_run(root, folder, *settings, **changes):
    """The folder of a run over the data set `root`, by configs/phantom.yaml made tiny.

    `changes` replace what the checkpoint holds.
    """
    loaded = load_config(Path("phantom.yaml"), (f"data.root={root}", *TINY, *settings))
    dataset, channels = open_dataset(loaded)
    network = loaded.config.network
    torch.manual_seed(0)
    made = build_network(
        network.name,
        network.args,
        in_channels=len(channels),
        out_channels=dataset.scheme.num_outputs,
    )
    # MONAI's DataLoader sets the seed that was set last: a network that a bundle makes after it,
    # and into which no weights are read, would have these very weights.
    torch.manual_seed(1)
    folder.mkdir(parents=True)
    contents = {
        "model": made.state_dict(),
        "config": loaded.plain,
        "scheme": dataset.scheme,
        "channels": channels,
        "file_channels": dataset.channels,
        "alpha": None,
        "versions": TESTED,
        "progress": {"epoch": 3, "best_epoch": 3, "best_score": 0.625},
        "synthetic": True,
        "spacing_mm": ((1.0, 1.0, 1.0), (1.0, 1.0, 2.0)),
    }
    save_checkpoint(folder / "best.pt", Checkpoint(**{**contents, **changes}))
    (folder / "split.json").write_text('{"made_by": {}, "train": ["a"], "val": ["b", "c"]}')
    return folder


class TwoLayers(nn.Module):
    """Takes any size, and is exported in a second."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.first = nn.Conv3d(in_channels, 4, 3, padding=1)
        self.last = nn.Conv3d(4, out_channels, 1)

    def forward(self, x):
        return self.last(self.first(x).relu())


class TwoHeads(TwoLayers):
    """Answers with a list, as for deep supervision."""

    def forward(self, x):
        logits = super().forward(x)
        return [logits, logits]


class Strided(nn.Module):
    """Takes multiples of 16, of which the smallest is the tiny patch."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.down = nn.Conv3d(in_channels, 4, 16, stride=16)
        self.up = nn.ConvTranspose3d(4, out_channels, 16, stride=16)

    def forward(self, x):
        return self.up(self.down(x).relu())


class PadsInside(nn.Module):
    """Takes any size, as BasicUNet does: what a stride cut off is padded again."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.first = nn.Conv3d(in_channels, 4, 3, padding=1)
        self.up = nn.ConvTranspose3d(4, 4, 2, stride=2)
        self.last = nn.Conv3d(8, out_channels, 1)

    def forward(self, x):
        fine = self.first(x)
        up = self.up(F.max_pool3d(fine, 2))
        pads = [0, 0, 0, 0, 0, 0]
        for axis in range(3):
            if fine.shape[-axis - 1] != up.shape[-axis - 1]:
                pads[2 * axis + 1] = 1
        return self.last(torch.cat([fine, F.pad(up, pads)], 1))


class OneSize(nn.Module):
    """Takes windows of 16 x 16 x 16 and nothing else."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.last = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.place = nn.Parameter(torch.randn(1, in_channels, 16, 16, 16))

    def forward(self, x):
        return self.last(x + self.place)


class AsksItsInput(nn.Module):
    """What it computes depends on the voxels: no graph can hold it."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.last = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x):
        return self.last(x if x.device.type == "meta" or x.sum() > 0 else -x)
