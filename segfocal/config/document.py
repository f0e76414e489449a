"""docs/config.md from the schema: `python -m segfocal.config.document > docs/config.md`."""

from __future__ import annotations

import re
import sys
import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from segfocal.config.schema import Config

_HEAD = """# Settings

Every setting of a config, written from `segfocal/config/schema.py`. On the command line:
`--set section.setting=value`, the value as in YAML.
"""


def settings_page() -> str:
    """The page, one table a section."""
    return "\n".join([_HEAD, *_sections(Config, "")])


def _sections(section: type[BaseModel], prefix: str) -> list[str]:
    rows, inner = [], []
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            inner += _sections(kind, f"{prefix}{name}.")
        else:
            rows.append(_row(prefix + name, field))
    title = prefix.rstrip(".") or "run"
    words = " ".join((section.__doc__ or "").split())
    head = [
        f"## {title}",
        "",
        words,
        "",
        "| setting | type | default | meaning |",
        "|---|---|---|---|",
    ]
    return [*head, *rows, "", *inner]


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{_yaml(field.default)}`"
    meaning = " ".join((field.description or "").split())
    cells = [f"`{name}`", _type(field.annotation), default, meaning]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value) if isinstance(value, tuple) else value).replace("'", "")


def _type(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments if argument is not type(None))
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(map(str, arguments))
    if origin is list:
        return f"list of ({_type(arguments[0])})"
    if origin is tuple:
        return f"{len(arguments)} x {_type(arguments[0])}"
    if origin is dict:
        return f"name: {_type(arguments[1])}"
    names = {"int": "integer", "float": "number", "str": "text", "bool": "true, false"}
    name = getattr(annotation, "__name__", str(annotation))
    return names.get(name, re.sub(r"Any", "any", name.lower()))


if __name__ == "__main__":
    sys.stdout.write(settings_page())
