"""configs/metadata.json: what the bundle's network takes and gives, by MONAI's specification.

https://docs.monai.io/en/latest/mb_specification.html
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import monai
import numpy as np
import torch

from segfocal._version import __version__
from segfocal.errors import UserError
from segfocal.export.model import TrainedModel
from segfocal.transforms.pipelines import normalization_rules

SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
    "meta_schema_20240725.json"
)
"""Where `python -m monai.bundle verify_metadata` fetches the rules from."""

VERSION = "0.1.0"
"""Of a bundle that was just exported; its owner counts on from there."""

_RUNNERS = {"pytorch-ignite": "0.5.5", "fire": "0.7.1"}
"""What `python -m monai.bundle run` needs besides MONAI, as tested, where none is installed."""

_UNSTATED = "not stated: whoever passes this bundle on fills it in"


def bundle_metadata(model: TrainedModel) -> dict[str, Any]:
    """The content of configs/metadata.json.

    Raises:
        UserError: If a name begins with a sign by which MONAI would evaluate it.
    """
    scheme, checkpoint = model.scheme, model.checkpoint
    named = {
        "in data.labels or data.channels and train again": (
            *scheme.names,
            *scheme.output_names,
            *checkpoint.channels,
        ),
        "(the run's folder)": (model.name,),
        "(the checkpoint)": (model.file,),
    }
    for where, name in ((where, name) for where, names in named.items() for name in names):
        if name.startswith(("$", "@", "%")):
            raise UserError(
                f"the name {name!r} begins with {name[0]}, which MONAI would evaluate. Rename it "
                f"{where}."
            )
    notice = {"notice": model.notice} if model.notice else {}
    channels, outputs = ", ".join(checkpoint.channels), ", ".join(scheme.output_names)
    targets = ", ".join(scheme.target_names)
    stamp = f"{model.notice}. " if model.notice else ""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "changelog": {VERSION: f"exported by segfocal {__version__} from {model.file}"},
        "monai_version": release(monai.__version__),
        "pytorch_version": release(torch.__version__),
        "numpy_version": release(np.__version__),
        "required_packages_version": required_packages(),
        "name": f"{stamp}Segmentation of {targets}",
        "task": f"{stamp}Segmentation of {targets} in 3D volumes of {channels}",
        "description": f"{stamp}{model.config.network.name}, trained with segfocal, "
        f"{epoch_text(model)}; maps volumes of {channels} to label maps on their own grid.",
        **notice,
        "authors": _UNSTATED,
        "copyright": _UNSTATED,
        "data_type": "NIfTI",
        "image_classes": f"{len(checkpoint.channels)} channels: {channels}",
        "label_classes": "one channel: "
        + ", ".join(
            f"{value} is {name}" for value, name in zip(scheme.values, scheme.names, strict=True)
        ),
        "pred_classes": f"{scheme.num_outputs} channels of logits ({scheme.activation}): {outputs}",
        **_eval_metrics(model),
        "intended_use": f"{stamp}Research. Not a medical device; not for clinical use.",
        "network_data_format": _formats(model),
        "segfocal": model.facts(),
    }


def required_packages() -> dict[str, str]:
    """Versions of what running the bundle needs besides MONAI, torch and NumPy."""
    return {
        "segfocal": __version__,
        "nibabel": metadata.version("nibabel"),
        **{name: _installed(name) or tested for name, tested in _RUNNERS.items()},
    }


def epoch_text(model: TrainedModel) -> str:
    """Which epoch, and how good it was over how many cases."""
    text = f"epoch {model.checkpoint.progress['epoch']}"
    dice = model.validation_dice
    if dice is None:
        return text
    cases = model.num_validated
    over = "" if cases is None else f" over {cases} case{'' if cases == 1 else 's'}"
    stamp = f" ({model.notice})" if model.notice else ""
    return f"{text}, mean Dice of its validation {dice:.3f}{over}{stamp}"


def _eval_metrics(model: TrainedModel) -> dict[str, Any]:
    if model.validation_dice is None:
        return {}
    return {
        "eval_metrics": {
            "validation_mean_dice": round(model.validation_dice, 4),
            "validation_cases": model.num_validated,
        }
    }


def _formats(model: TrainedModel) -> dict[str, Any]:
    """`network_data_format`: of the network itself, prepared windows in and logits out."""
    channels = model.checkpoint.channels
    rules = normalization_rules(model.config.data.normalize, channels)
    shared = {
        "type": "image",
        # MONAI's own check knows the letters n and p alone
        "spatial_shape": [
            patch if divisor is None else ("*" if divisor == 1 else f"{divisor}*n")
            for patch, divisor in zip(model.patch_size, model.divisors, strict=True)
        ],
        "dtype": "float32",
        "is_patch_data": True,
        "modality": "n/a",
    }
    windows_alone = all(isinstance(rule, tuple) for rule in rules)
    return {
        "inputs": {
            "image": {
                **shared,
                "format": "magnitude",
                "num_channels": len(channels),
                "value_range": [-1, 1] if windows_alone else [],
                "channel_def": _numbered(channels),
            }
        },
        "outputs": {
            "pred": {
                **shared,
                "format": "classes" if model.scheme.regions else "labels",
                "num_channels": model.scheme.num_outputs,
                "value_range": [],
                "channel_def": _numbered(model.scheme.output_names),
            }
        },
    }


def _numbered(names: tuple[str, ...]) -> dict[str, str]:
    return {str(number): name for number, name in enumerate(names)}


def release(version: str) -> str:
    """Without what names a build, as `+cpu`."""
    return version.partition("+")[0]


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
