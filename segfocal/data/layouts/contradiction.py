"""Two accounts of what label values mean: where they cannot both be right."""

from __future__ import annotations

from collections.abc import Iterable

from segfocal.data.layouts.descriptor import FILE_NAME
from segfocal.labels import LabelScheme


def contradiction(said: LabelScheme, who: str, declared: LabelScheme) -> str:
    """A line about what is said of values and denied by dataset.json; "" if there is nothing.

    A class of the same name has to have the same values, and where both make as many regions, they
    have to be made of the same values: BraTS' tumour core is 1 and 3 in the challenge's files of
    2023, 2 and 3 where nnU-Net's scripts renumbered them, and no value tells them apart.

    Args:
        said: What the config says.
        who: What to call it.
        declared: What dataset.json says.
    """
    theirs = {_spelling(name): value for name, value in _classes(declared)}
    for name, value in _classes(said):
        other = theirs.get(_spelling(name), value)
        if other != value:
            return _line(f"{who} calls {value} {name}, {FILE_NAME} {other}.")
    made, known = _regions(said), _regions(declared)
    if len(made) == len(known):
        for name, values in made.items():
            if values not in known.values():
                regions = ", ".join(f"{other} {_text(known[other])}" for other in known)
                return _line(f"{who} makes {name} of {_text(values)}, {FILE_NAME} {regions}.")
    return ""


def _line(text: str) -> str:
    return f"{text} Which is right? Without data.labels it is {FILE_NAME}."


def _classes(scheme: LabelScheme) -> Iterable[tuple[str, int]]:
    return zip(scheme.names, scheme.values, strict=True)


def _spelling(name: str) -> str:
    """British and American names are one."""
    return name.casefold().replace("oedema", "edema").replace("tumour", "tumor")


def _regions(scheme: LabelScheme) -> dict[str, frozenset[int]]:
    return {
        region.name: frozenset(scheme.values[index] for index in region.classes)
        for region in scheme.regions
    }


def _text(values: frozenset[int]) -> str:
    return ",".join(map(str, sorted(values)))
