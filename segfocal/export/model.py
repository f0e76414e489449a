"""A trained model as it is exported: network, meaning, provenance, in one record."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from torch import nn

from segfocal._version import __version__
from segfocal.checkpoint import Checkpoint, load_checkpoint
from segfocal.config.load import check_config
from segfocal.config.schema import Config
from segfocal.data.phantom.stamp import STAMP
from segfocal.inference.held_out import validated_cases
from segfocal.inference.predictor import trained_network
from segfocal.labels import LabelScheme
from segfocal.networks import build_network, check_network, size_divisors
from segfocal.transforms.pipelines import normalization_rules


@dataclass(frozen=True)
class TrainedModel:
    """A checkpoint and what the formats ask of it.

    Attributes:
        name: Of the run.
        file: Name of the checkpoint's file.
        checkpoint: What it holds.
        config: Its settings.
        network: With the weights that prediction uses, on the CPU, in evaluation mode.
        num_validated: Cases that `best_score` is over; None where the run folder does not tell.
    """

    name: str
    file: str
    checkpoint: Checkpoint
    config: Config
    network: nn.Module
    num_validated: int | None

    @property
    def scheme(self) -> LabelScheme:
        """What the outputs mean."""
        return self.checkpoint.scheme

    @property
    def notice(self) -> str | None:
        """What must stand on everything made from a phantom."""
        return STAMP if self.checkpoint.synthetic else None

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """Window size along R, A, S."""
        return self.config.train.patch_size

    @cached_property
    def divisors(self) -> tuple[int | None, ...]:
        """What a size must be a multiple of along R, A, S; None where only the patch's will do."""
        return size_divisors(self._make, self.patch_size, len(self.checkpoint.channels))

    @property
    def flip_axes(self) -> list[int]:
        """Axes along which prediction mirrors windows by default."""
        flips = self.config.infer.tta == "flips"
        return list(self.config.train.augment.flip_axes) if flips else []

    @property
    def validation_dice(self) -> float | None:
        """Mean Dice of this checkpoint's epoch; None where it was not validated or has no mean.

        There is none where every case lacks every class, and nothing was predicted.
        """
        progress = self.checkpoint.progress
        validated = progress["best_epoch"] and progress["best_epoch"] == progress["epoch"]
        return progress["best_score"] if validated and progress["best_score"] >= 0 else None

    def facts(self) -> dict[str, Any]:
        """Everything that somebody must know who runs the network elsewhere, as plain values."""
        data, infer, checkpoint = self.config.data, self.config.infer, self.checkpoint
        rules = normalization_rules(data.normalize, checkpoint.channels)
        return {
            "segfocal": __version__,
            "notice": self.notice,
            "input": {
                "channels": list(checkpoint.channels),
                "axes": "RAS",
                "spacing_mm": _listed(data.spacing_mm),
                "trained_on_spacing_mm": _listed(checkpoint.spacing_mm),
                "normalize": dict(zip(checkpoint.channels, map(_listed, rules), strict=True)),
            },
            "output": {
                "names": list(self.scheme.output_names),
                "activation": self.scheme.activation,
                "threshold": infer.threshold if self.scheme.regions else None,
                "labels": self.scheme.to_dict(),
            },
            "window": {
                "patch_size": list(self.patch_size),
                "divisors": list(self.divisors),
                "overlap": infer.overlap,
                "mode": infer.mode,
                "flip_axes": self.flip_axes,
            },
            "cleaning": {
                "min_lesion_mm3": infer.min_lesion_mm3,
                "keep_largest": infer.keep_largest,
            },
            "network": {"name": self.config.network.name, "args": self.config.network.args},
            "provenance": {
                "run": self.name,
                "checkpoint": self.file,
                "epoch": checkpoint.progress["epoch"],
                "validation_mean_dice": self.validation_dice,
                "validation_cases": self.num_validated,
                "synthetic": checkpoint.synthetic,
                "versions": checkpoint.versions,
            },
        }

    @property
    def _make(self) -> partial[nn.Module]:
        return partial(
            build_network,
            self.config.network.name,
            self.config.network.args,
            in_channels=len(self.checkpoint.channels),
            out_channels=self.scheme.num_outputs,
        )

    def check(self) -> None:
        """Sends a patch without data through the network.

        Raises:
            UserError: If it does not answer with one tensor of logits of the patch's size.
        """
        channels = len(self.checkpoint.channels)
        check_network(self._make, self.patch_size, channels, self.scheme.num_outputs)


def load_model(path: Path, run: Path) -> TrainedModel:
    """Reads a checkpoint and builds its network.

    Args:
        path: The checkpoint.
        run: The folder of the run, for its name and its split.

    Raises:
        UserError: If the checkpoint is damaged or none of segfocal's, its network cannot be built
            here or does not answer with one tensor, or the run's split.json lists no cases.
    """
    checkpoint = load_checkpoint(path)
    model = TrainedModel(
        name=run.resolve().name,
        file=path.name,
        checkpoint=checkpoint,
        config=check_config(checkpoint.config, "checkpoint").config,
        network=trained_network(checkpoint).eval(),
        num_validated=_num_validated(run / "split.json"),
    )
    model.check()
    return model


def _num_validated(split: Path) -> int | None:
    return len(validated_cases(split)) if split.is_file() else None


def _listed(value: Any) -> Any:
    """Tuples as lists, all the way down."""
    return [_listed(part) for part in value] if isinstance(value, (tuple, list)) else value
