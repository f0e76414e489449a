import typing
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from segfocal.config.schema import Config
from segfocal.config.shareable import PRIVATE, shareable_settings

TEXT_THAT_NAMES_NO_PATIENT = {
    *("data.labels", "data.channels", "data.normalize", "train.foreground_weights"),
    *("network.name", "network.args", "train.device"),
}


def texts(section, prefix=""):
    """Settings that take text of the user's."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from texts(kind, f"{prefix}{name}.")
        elif {str, Path, Any} & {*leaves(kind)}:
            yield f"{prefix}{name}"


def leaves(annotation):
    inner = () if typing.get_origin(annotation) is typing.Literal else typing.get_args(annotation)
    return [leaf for part in inner for leaf in leaves(part)] or [annotation]


def test_of_every_setting_that_takes_text_it_was_decided_whether_it_is_private():
    assert {*texts(Config)} == PRIVATE | TEXT_THAT_NAMES_NO_PATIENT


def test_private_settings_and_paths_in_others_are_left_out_and_the_rest_is_there():
    secret = "/home/mueller"
    config = Config.model_validate(
        {
            "data": {
                "root": secret,
                "exclude": ["Mueller_*"],
                "partial": {"mueller": ["wt"]},
                "patient_pattern": "{patient}_T*",
                "label_pattern": "mueller_{case}.nii.gz",
                "channels": ["T1", "T2"],
                "labels": {"wt": [1, 2], "tc": 2},
            },
            "network": {"args": {"weights": "C:\\mueller.pt", "more": {"file": f"{secret}.pt"}}},
            "loss": {"gamma": [1, 2]},
            "out": f"{secret}/run",
        }
    )
    settings = shareable_settings(config)
    assert "mueller" not in str(settings).lower()
    assert settings["data.channels"] == '["T1", "T2"]'
    assert (settings["data.labels.wt"], settings["data.labels.tc"]) == ("[1, 2]", 2)
    assert settings["loss.gamma"] == "[1.0, 2.0]"
    assert settings["train.epochs"] == 100
    assert settings["data.pad"] is True
    assert settings["data.spacing_mm"] is None
