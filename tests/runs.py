"""Tiny trainings for tests: a small network on small patches, seconds each."""

import time
from pathlib import Path

from segfocal.training.run import TrainRequest, train

TINY = (
    "network.args={init_filters: 8, blocks_down: [1, 1], blocks_up: [1]}",
    "train.patch_size=[16, 16, 16]",
    "train.steps_per_epoch=2",
    "train.epochs=2",
    "train.val_every=2",
    "train.batch_size=1",
    "infer.overlap=0.0",
    "data.val_fraction=0.34",
)


def tiny_run(root: Path, out: Path, *settings: str, launch=None, **options):
    """Trains with configs/phantom.yaml made tiny; later settings win."""
    return train(
        TrainRequest(
            config=Path("phantom.yaml"),
            overrides=(f"data.root={root}", *TINY, *settings),
            out=out,
            quiet=options.pop("quiet", True),
            started_s=time.monotonic(),
            **options,
        ),
        launch=launch,
    )
