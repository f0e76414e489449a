"""The same on GPUs with nccl: as many ranks as there are devices."""

import pytest
import torch

from segfocal.checkpoint import load_checkpoint
from tests.ranks.torchrun import train_all

pytestmark = [pytest.mark.gpu, pytest.mark.slow]

UNET = "network.args={channels: [8, 16], strides: [2], num_res_units: 0, norm: BATCH, dropout: 0.2}"


def test_ranks_on_gpus_end_with_the_weights_of_one(phantom, tmp_path):
    count = min(4, torch.cuda.device_count())  # nccl wants a device for each rank
    always = (
        *("train.optimizer=SGD", "train.lr=0.02", "train.grad_clip=null", "train.device=cuda"),
        *(f"train.batch_size={count + 1}", f"data.cache_dir={tmp_path / 'cache'}"),
    )
    settings = {
        "fp32": ("train.amp=fp32",),
        "fp16": ("train.amp=fp16", "train.accumulate=2"),
        "batch norm": ("train.amp=fp32", "network.name=UNet", UNET),
    }
    for ranks in (None, count):
        runs = [
            {"out": str(tmp_path / f"{name} {ranks}"), "settings": (*always, *given)}
            for name, given in settings.items()
        ]
        train_all(ranks, phantom, runs, tmp_path)
    for name in settings:
        one, shared = (
            load_checkpoint(tmp_path / f"{name} {ranks}" / "last.pt").model
            for ranks in (None, count)
        )
        loose = name == "fp16"
        for key in one:
            torch.testing.assert_close(
                shared[key], one[key], rtol=1e-2 if loose else 1e-3, atol=1e-3 if loose else 1e-4
            )
    log = (tmp_path / f"fp32 {count}" / "log.txt").read_text()
    assert count == 1 or f"{count} x cuda {torch.cuda.get_device_name()}" in log
