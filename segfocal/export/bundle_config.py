"""configs/inference.json: the steps of segfocal-predict in MONAI's configuration language.

MONAI evaluates strings that begin with `$`. Those here are written here; whatever comes out of the
checkpoint (names, patterns, network arguments) is written so that it can only be a value.
"""

from __future__ import annotations

import re
from typing import Any

from segfocal.errors import UserError
from segfocal.export.model import TrainedModel
from segfocal.networks import import_path, network_arguments
from segfocal.transforms.pipelines import Step, preparation_steps

_MEANS_SOMETHING = re.compile(r"^\s*[$+]|[@%#]|::")
"""What MONAI's parser would evaluate, look up or rewrite in a string."""


def inference_config(model: TrainedModel) -> dict[str, Any]:
    """The content of configs/inference.json."""
    return {
        "imports": ["$import pathlib", "$from segfocal.errors import tell_user_errors_in_one_line"],
        "initialize": ["$tell_user_errors_in_one_line()"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "datalist": _datalist(model),
        "scheme": _component(
            "segfocal.labels.LabelScheme.from_dict", plain=literal(model.scheme.to_dict())
        ),
        "network_def": _network(model),
        "network": _component(
            "segfocal.inference.device.place_network", network="@network_def", device="@device"
        ),
        "preprocessing": _preprocessing(model),
        "dataset": _component("Dataset", data="@datalist", transform="@preprocessing"),
        "dataloader": _component(
            "DataLoader", dataset="@dataset", batch_size=1, shuffle=False, num_workers=0
        ),
        "inferer": _inferer(model),
        "postprocessing": _component("Compose", transforms=[_save(model)]),
        "handlers": [
            _component(
                "CheckpointLoader",
                load_path="$@bundle_root + '/models/model.pt'",
                load_dict={"model": "@network"},
                map_location="@device",
            )
        ],
        "evaluator": _component(
            "SupervisedEvaluator",
            device="@device",
            val_data_loader="@dataloader",
            network="@network",
            inferer="@inferer",
            postprocessing="@postprocessing",
            val_handlers="@handlers",
        ),
        "run": ["$@evaluator.run()"],
    }


def literal(value: Any) -> Any:
    r"""A plain value in a form that MONAI's parser gives back as it is.

    Args:
        value: What JSON can hold.

    Raises:
        UserError: If a key has a meaning to MONAI, as `_target_` has.

    Example:
        >>> literal(["T1", "$print(1)"])
        ['T1', "$'\\x24print(1)'"]
    """
    if isinstance(value, str):
        if not _MEANS_SOMETHING.search(value):
            return value
        quoted = re.sub(r"[$@%#:]", lambda found: f"\\x{ord(found[0]):02x}", repr(value))
        return "$" + quoted
    if isinstance(value, (list, tuple)):
        return [literal(part) for part in value]
    if isinstance(value, dict):
        for key in value:
            if str(key).startswith("_") or _MEANS_SOMETHING.search(str(key)):
                raise UserError(
                    f"checkpoint: the key {key!r} in a setting would mean something to MONAI. A "
                    f"bundle cannot hold it; rename it in the config and train again."
                )
        return {key: literal(part) for key, part in value.items()}
    return value


def _component(target: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": target, **arguments}


def _of(step: Step, **more: Any) -> dict[str, Any]:
    name = step.transform.__name__
    # MONAI finds its own by their bare names; ours by their public ones
    path = name if step.transform.__module__.startswith("monai.") else f"segfocal.transforms.{name}"
    return _component(path, **literal(step.arguments), **more)


def _datalist(model: TrainedModel) -> dict[str, Any]:
    return _component(
        "segfocal.data.layouts.list_inputs",
        path="$pathlib.Path(@dataset_dir)",
        channels=literal(model.checkpoint.file_channels),
        image_pattern=literal(model.config.data.image_pattern),
        label_pattern=literal(model.config.data.label_pattern),
    )


def _network(model: TrainedModel) -> dict[str, Any]:
    network = model.config.network
    arguments = network_arguments(
        network.name,
        network.args,
        in_channels=len(model.checkpoint.channels),
        out_channels=model.scheme.num_outputs,
    )
    return _component(import_path(network.name), **literal(arguments))


def _preprocessing(model: TrainedModel) -> dict[str, Any]:
    checkpoint = model.checkpoint
    read, *steps = preparation_steps(
        model.config.data, checkpoint.file_channels, checkpoint.channels, labelled=False
    )
    return _component(
        "segfocal.transforms.Preprocessing",
        load=_of(read, scheme="@scheme"),
        transforms=_component("Compose", transforms=[_of(step) for step in steps]),
    )


def _inferer(model: TrainedModel) -> dict[str, Any]:
    return _component(
        "segfocal.inference.PredictorInferer",
        preprocessing="@preprocessing",
        scheme="@scheme",
        patch_size=list(model.patch_size),
        infer=model.config.infer.model_dump(mode="json"),
        flip_axes=list(model.config.train.augment.flip_axes),
        amp=model.config.train.amp,
    )


def _save(model: TrainedModel) -> dict[str, Any]:
    return _component(
        "segfocal.transforms.SaveLabeld",
        keys="pred",
        scheme="@scheme",
        output_dir="@output_dir",
        channel_dim=model.config.data.channel_dim,
        **({"synthetic": True} if model.checkpoint.synthetic else {}),
    )
