"""YAML file and `--set` overrides to a checked `Config`; a mistake is one line with its place."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from segfocal.config.schema import Config, InferConfig, setting_names, tuple_length
from segfocal.errors import UserError

_SHIPPED = (Path(__file__).parents[1] / "_configs", Path(__file__).parents[2] / "configs")


@dataclass(frozen=True)
class LoadedConfig:
    """A checked config that remembers where each setting was written.

    Attributes:
        config: The settings.
        name: Stem of the file, the run's default name.
        lines: Dotted setting to `file:line` or `--set`.
    """

    config: Config
    name: str
    lines: Mapping[str, str]

    def error(self, setting: str, message: str) -> UserError:
        """The error to raise about one setting: place, name, message."""
        return UserError(f"{_where(self.lines, setting)}{setting}: {message}")

    @contextmanager
    def placing(self) -> Iterator[None]:
        """Within it a `UserError` that begins with a setting's name gets the place of the setting.

        What refuses a setting may know nothing of files: a network, a loss, a reader of cases.
        """
        try:
            yield
        except UserError as error:
            setting, colon, _ = str(error).partition(": ")
            if not colon or setting not in setting_names():
                raise
            raise UserError(f"{_where(self.lines, setting)}{error}") from error

    @property
    def plain(self) -> dict[str, Any]:
        """Every setting as plain JSON values, defaults included."""
        return self.config.model_dump(mode="json")


def find_config(path: Path) -> Path:
    """The file itself, or the config of that name that segfocal ships.

    Raises:
        UserError: If there is neither; the shipped names are listed.
    """
    if path.is_file():
        return path
    folder = next((folder for folder in _SHIPPED if folder.is_dir()), None)
    shipped = sorted(folder.glob("*.yaml")) if folder else []
    if path.parent == Path():
        for candidate in shipped:
            if candidate.name == path.with_suffix(".yaml").name:
                return candidate
    names = ", ".join(candidate.name for candidate in shipped)
    raise UserError(f"{path} does not exist. Configs that come with segfocal: {names}.")


def load_config(path: Path, overrides: Sequence[str] = ()) -> LoadedConfig:
    """Reads and checks a config.

    Args:
        path: YAML file, or the name of a shipped one.
        overrides: `section.setting=value` strings, the value written as in YAML.

    Raises:
        UserError: For every mistake, with `file:line` and a suggestion.
    """
    path = find_config(path)
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{path.name}:{line}: not valid YAML: {error.problem}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path.name}:1: not a YAML text file: {error}.".replace("\n", " ")
        ) from None
    lines: dict[str, str] = {}
    settings = _plain(node, path.name, "", lines) if node is not None else {}
    if not isinstance(settings, dict):
        raise UserError(
            f"{path.name}:1: expected sections (data:, loss:, train:), got {settings!r}."
        )
    for override in overrides:
        _override(settings, override, lines)
    return check_config(settings, path.stem, lines)


def config_of(
    settings: dict[str, Any], overrides: Sequence[str], name: str, places: Mapping[str, str]
) -> LoadedConfig:
    """A config without a file.

    Args:
        settings: Plain settings by section.
        overrides: `section.setting=value` strings over them.
        name: The run's default name.
        places: Dotted setting to the argument that gave it, for messages.

    Raises:
        UserError: For every mistake, with a suggestion.
    """
    lines = dict(places)
    for override in overrides:
        _override(settings, override, lines)
    return check_config(settings, name, lines)


def check_config(
    settings: Mapping[str, Any], name: str, lines: Mapping[str, str] | None = None
) -> LoadedConfig:
    """Checks plain settings (from YAML, or from a checkpoint) against the schema."""
    lines = dict(lines or {})
    try:
        config = Config.model_validate(dict(settings))
    except ValidationError as error:
        raise UserError(_explain(error, settings, lines)) from None
    return LoadedConfig(config, name, lines)


def infer_of(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> InferConfig:
    """The section `infer` of a trained run, with settings of that section said anew.

    Args:
        settings: Every setting of the run, as its checkpoint has them.
        overrides: `infer.setting=value` strings.

    Raises:
        UserError: For a mistake in them, or a setting of another section.
    """
    changed = copy.deepcopy(dict(settings))
    lines: dict[str, str] = {}
    for override in overrides:
        _override(changed, override, lines)
    other = next((setting for setting in lines if not setting.startswith("infer.")), None)
    if other is not None:
        names = sorted(name for name in setting_names() if name.startswith("infer."))
        raise UserError(
            f"--set {other}: a trained run predicts as it was trained. Said anew can be "
            f"{', '.join(names)}."
        )
    return check_config(changed, "checkpoint", lines).config.infer


def check_infer(settings: Mapping[str, Any]) -> InferConfig:
    """Checks settings of the section `infer` alone; what is not there has its default."""
    data = {"root": "."}  # the one setting that has no default
    return check_config({"data": data, "infer": dict(settings)}, "infer").config.infer


def _plain(
    node: yaml.Node,
    file: str,
    prefix: str,
    lines: dict[str, str],
    within: tuple[yaml.Node, ...] = (),
) -> Any:
    """Node to plain values; notes the line of every key on the way."""
    if node in within:
        line = node.start_mark.line + 1
        raise UserError(f"{file}:{line}: {prefix.rstrip('.')} holds itself, by an alias.")
    if not isinstance(node, yaml.MappingNode):
        loader = yaml.SafeLoader("")
        try:
            value = loader.construct_object(node, deep=True)
        except yaml.constructor.ConstructorError as error:
            line = node.start_mark.line + 1
            raise UserError(
                f"{file}:{line}: {error.problem}. A config holds plain values."
            ) from None
        return value
    if node.tag != "tag:yaml.org,2002:map":
        line = node.start_mark.line + 1
        raise UserError(f"{file}:{line}: tag {node.tag} means code. A config holds plain values.")
    mapping: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = yaml.SafeLoader("").construct_object(key_node, deep=True)
        dotted = f"{prefix}{key}"
        place = f"{file}:{key_node.start_mark.line + 1}"
        if key in mapping:
            raise UserError(f"{place}: {dotted} is set twice (first in {lines[dotted]}).")
        lines[dotted] = place
        mapping[key] = _plain(value_node, file, f"{dotted}.", lines, (*within, node))
    return mapping


def _override(settings: dict[str, Any], override: str, lines: dict[str, str]) -> None:
    setting, equals, text = override.partition("=")
    setting = setting.strip()
    if not equals or not setting:
        raise UserError(f"--set {override}: expected section.setting=value, as loss.gamma=2.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(
            f"--set {override}: {text!r} is not a YAML value. Quote text that begins with a brace, "
            f"bracket or star: --set '{setting}=\"...\"'."
        ) from None
    *sections, last = setting.split(".")
    place = settings
    for section in sections:
        inner = place.get(section)
        if inner is None:
            inner = place[section] = {}
        if not isinstance(inner, dict):
            raise UserError(f"--set {override}: {section} is not a section.")
        place = inner
    place[last] = value
    lines[setting] = "--set"


def _where(lines: Mapping[str, str], setting: str) -> str:
    parts = setting.split(".")
    for length in range(len(parts), 0, -1):
        place = lines.get(".".join(parts[:length]))
        if place:
            return f"{place}: "
    return ""


def _explain(error: ValidationError, settings: Mapping[str, Any], lines: Mapping[str, str]) -> str:
    """The first mistake of a validation, in one line."""
    names = setting_names()
    sections = sorted({name.rsplit(".", 1)[0] for name in names if "." in name})
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    setting = ".".join(location)
    known = next((n for n in names if setting == n or setting.startswith(f"{n}.")), None)
    where = _where(lines, known or setting)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(setting, names + sections, 1, cutoff=0.6)
        last = location[-1]
        near = near or [n for n in names if n.rsplit(".", 1)[-1] == last]
        hint = f" Did you mean {near[0]}?" if near else f" Known: {_siblings(location, names)}."
        return f"{where}{setting} is not a setting.{hint}"
    if first["type"] == "missing" and setting == "data":
        setting = "data.root"
    if first["type"] == "missing" and (setting in names):
        return f"{where}{setting} is not set. Write it in the config, or pass --set {setting}=..."
    if known is None and not setting:  # of several settings at once, the first of which it names
        wanted = _wanted(first).rstrip(".")
        return f"{_where(lines, wanted.split()[0])}{wanted}."
    if known is None:
        return f"{where}{setting}: {_wanted(first).rstrip('.')}."
    of_this = [e for e in error.errors() if ".".join(map(str, e["loc"])).startswith(known)]
    all_wanted = dict.fromkeys(_numbers_wanted(e, known) or _wanted(e) for e in of_this)
    first_wanted, *others = all_wanted
    wanted = " or ".join([first_wanted, *(other.removeprefix("expected ") for other in others)])
    got = _value(settings, known)
    meant = [word for e in of_this for word in _near_words(e)]
    hint = f" Did you mean {meant[0]}?" if meant else ""
    return f"{where}{known}: {wanted}, got {got!r}.{hint}".replace("\n", " ")


def _near_words(error: Any) -> list[str]:
    """The allowed word that is closest to the one that was written, in a list or mapping too."""
    if error["type"] != "literal_error":
        return []
    choices = str(error["ctx"]["expected"]).split("'")[1::2]
    return difflib.get_close_matches(str(error["input"]), choices, 1)


def _numbers_wanted(error: Any, setting: str) -> str:
    """`expected 3 numbers, [a, b, c]` for a list of another length or none; "" for other errors."""
    if error["type"] not in ("tuple_type", "too_long", "too_short", "missing"):
        return ""
    length = tuple_length(setting)
    letters = ", ".join("abcdefgh"[:length])
    return f"expected {length} numbers, [{letters}]" if length else ""


def _wanted(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] in ("model_type", "model_attributes_type"):
        return "expected a section: settings below it, a line each"
    if error["type"] == "path_type":
        return "expected a path"
    return message.replace("Input should be", "expected").split(", got ")[0]


def _value(settings: Mapping[str, Any], setting: str) -> Any:
    """What the user wrote for a setting."""
    value: Any = settings
    for part in setting.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _siblings(location: Sequence[str], names: Sequence[str]) -> str:
    prefix = ".".join(location[:-1])
    siblings = [n for n in names if n.rpartition(".")[0] == prefix]
    return ", ".join(
        siblings if prefix and siblings else dict.fromkeys(n.split(".")[0] for n in names)
    )
