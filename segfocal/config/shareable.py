"""The settings of a run that may leave the machine: no path, nothing that names a patient."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from segfocal.config.schema import Config

PRIVATE = frozenset(
    {
        "data.root",
        "data.case_list",
        "data.image_pattern",
        "data.label_pattern",
        "data.exclude",
        "data.partial",
        "data.split",
        "data.patient_pattern",
        "data.cache_dir",
        "out",
    }
)
"""Settings that hold paths, or ids of cases."""


def shareable_settings(config: Config) -> dict[str, str | int | float | bool | None]:
    """Dotted setting to its value, defaults included; lists as JSON text.

    Left out are the `PRIVATE` settings, and any text with a slash or backslash in it: free
    settings, such as `network.args`, may hold a path too.

    Example:
        >>> settings = shareable_settings(Config.model_validate({"data": {"root": "/home/a"}}))
        >>> settings["train.patch_size"], "data.root" in settings
        ('[96, 96, 96]', False)
    """
    return _flat(config.model_dump(mode="json"), "")


def _flat(section: Mapping[str, Any], prefix: str) -> dict[str, str | int | float | bool | None]:
    flat: dict[str, str | int | float | bool | None] = {}
    for name, value in section.items():
        setting = f"{prefix}{name}"
        if setting in PRIVATE:
            continue
        if isinstance(value, dict):
            flat.update(_flat(value, f"{setting}."))
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if not {"/", "\\"} & {*text}:
            flat[setting] = text if isinstance(value, list) else value
    return flat
