"""The label scheme: what the integers of a label file mean. Every room asks it, none guesses.

A label file holds *values* (BraTS 2020: 0, 1, 2, 4). Inside segfocal a voxel holds a *class index*
(0 .. C-1, background first), or `IGNORE_CLASS` where nobody knows. *Regions* (WT, TC, ET) are
overlapping unions of classes; with regions the network has one sigmoid channel per region,
without them one softmax channel per class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segfocal.errors import UserError

IGNORE_CLASS = 255
"""Class index of an ignored voxel, once a label file has been encoded (dtype uint8)."""

ClassMap = npt.NDArray[np.uint8]


class IgnoredClassError(UserError):
    """`loss.ignore_index` names a class that cannot be ignored, whoever declared the labels."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"loss.ignore_index: {what} Name values of voxels that nobody annotated, or null."
        )


@dataclass(frozen=True)
class Region:
    """A named union of classes, such as WT = oedema + core + enhancing.

    Attributes:
        name: Name in tables and pictures.
        classes: Class indices (not file values) that belong to the region.
        paint: Class index written where this region is predicted and no later one is.
    """

    name: str
    classes: tuple[int, ...]
    paint: int


@dataclass(frozen=True)
class LabelScheme:
    """Names, file values, regions and ignored values of a data set.

    Attributes:
        names: One name per class, background first.
        values: The integer a label file holds for each class, in the same order.
        regions: Overlapping targets, outermost first; empty for plain classes.
        ignore_values: File values that mean "not annotated here".

    Raises:
        UserError: If names and values disagree, a value stands twice, or a region names a class
            that does not exist.

    Example:
        >>> scheme = LabelScheme(("background", "tumour"), (0, 1), ignore_values=(9,))
        >>> scheme.encode(np.array([0, 1, 9])).tolist()
        [0, 1, 255]
        >>> scheme.activation, scheme.output_names
        ('softmax', ('background', 'tumour'))
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    regions: tuple[Region, ...] = ()
    ignore_values: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.names) != len(self.values):
            raise UserError(
                f"labels: expected one value per name, got {len(self.names)} names and "
                f"{len(self.values)} values."
            )
        if len(self.names) < 2 or len(self.names) > IGNORE_CLASS:
            raise UserError(
                f"labels: expected background and 1 to {IGNORE_CLASS - 1} classes, "
                f"got {len(self.names)} in all."
            )
        declared = [*self.values, *self.ignore_values]
        twice = sorted({value for value in declared if declared.count(value) > 1})
        if twice:
            raise UserError(
                f"labels: value {twice[0]} is declared twice. Give each value one meaning."
            )
        for region in self.regions:
            unknown = [c for c in (*region.classes, region.paint) if not 0 < c < len(self.names)]
            if unknown or not region.classes:
                raise UserError(
                    f"labels: region {region.name} must be made of classes 1 to "
                    f"{len(self.names) - 1}, got {list(region.classes)}."
                )

    @property
    def num_classes(self) -> int:
        """Number of mutually exclusive classes, background included."""
        return len(self.names)

    @property
    def activation(self) -> Literal["softmax", "sigmoid"]:
        """`sigmoid` with regions (they overlap), `softmax` without."""
        return "sigmoid" if self.regions else "softmax"

    @property
    def num_outputs(self) -> int:
        """Number of channels the network must have."""
        return len(self.regions) or self.num_classes

    @property
    def output_names(self) -> tuple[str, ...]:
        """Name of each network channel: the regions, or the classes with background."""
        return tuple(region.name for region in self.regions) or self.names

    @property
    def target_names(self) -> tuple[str, ...]:
        """What metrics report on: the regions, or the classes without background."""
        return tuple(region.name for region in self.regions) or self.names[1:]

    @property
    def target_classes(self) -> tuple[tuple[int, ...], ...]:
        """The class indices that make up each of `target_names`."""
        if self.regions:
            return tuple(region.classes for region in self.regions)
        return tuple((index,) for index in range(1, self.num_classes))

    @property
    def region_table(self) -> tuple[tuple[int, ...], ...] | None:
        """The `regions` argument of the losses: class indices per channel, or None."""
        return self.target_classes if self.regions else None

    @property
    def ignore_index(self) -> int | None:
        """The `ignore_index` argument of the losses on encoded labels."""
        return IGNORE_CLASS if self.ignore_values else None

    @property
    def declared_values(self) -> tuple[int, ...]:
        """Every value a label file may hold, ignored ones included, sorted."""
        return tuple(sorted({*self.values, *self.ignore_values}))

    def ignoring(self, values: Sequence[int]) -> LabelScheme:
        """The scheme that ignores these values too, but for those that it has a meaning for."""
        more = {int(value) for value in values} - {*self.values}
        return replace(self, ignore_values=tuple(sorted(more.union(self.ignore_values))))

    def undeclared(self, values: npt.NDArray[Any]) -> tuple[int, ...]:
        """The distinct integers in `values` that this scheme does not declare, sorted.

        Raises:
            UserError: If a value is no whole number.
        """
        found = set(_whole(np.unique(values)))
        return tuple(sorted(found.difference(self.declared_values)))

    def encode(self, values: npt.NDArray[Any]) -> ClassMap:
        """File values to class indices.

        Args:
            values: Array of any shape, as read from a label file; floats that are whole will do.

        Returns:
            uint8 array of the same shape: class indices, `IGNORE_CLASS` where ignored.

        Raises:
            UserError: If a value is not declared, or is no whole number.
        """
        distinct, inverse = np.unique(values, return_inverse=True)
        found = _whole(distinct)
        table = dict(zip(self.values, range(self.num_classes), strict=True))
        table.update(dict.fromkeys(self.ignore_values, IGNORE_CLASS))
        if any(value not in table for value in found):
            raise UserError(
                f"label holds {_braces(found)}; "
                f"the config declares {_braces(self.declared_values)}."
            )
        codes = np.array([table[value] for value in found], dtype=np.uint8)
        return codes[inverse].reshape(values.shape)

    def decode(self, classes: ClassMap) -> npt.NDArray[Any]:
        """Class indices back to file values, in the smallest integer type that holds them.

        Args:
            classes: Class indices 0 .. C-1 of any shape (a prediction: nothing is ignored).
        """
        low, high = min(self.values), max(self.values)
        candidates = (np.uint8, np.int16, np.int32, np.int64)
        dtype = next(
            kind for kind in candidates if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max
        )
        decoded: npt.NDArray[Any] = np.array(self.values, dtype=dtype)[classes]
        return decoded

    def paint(self, inside: npt.NDArray[np.bool_]) -> ClassMap:
        """Region masks to one class map: outer regions first, inner ones over them.

        Args:
            inside: `(R, *S)`, True where region r is predicted.

        Returns:
            Class indices `(*S)`, uint8.
        """
        painted = np.zeros(inside.shape[1:], dtype=np.uint8)
        for region, where in zip(self.regions, inside, strict=True):
            painted[where] = region.paint
        return painted

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint or a JSON file; `from_dict` is the inverse."""
        return {
            "names": list(self.names),
            "values": list(self.values),
            "regions": [
                {"name": r.name, "classes": list(r.classes), "paint": r.paint} for r in self.regions
            ],
            "ignore_values": list(self.ignore_values),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LabelScheme:
        """The scheme that `to_dict` wrote."""
        return cls(
            tuple(plain["names"]),
            tuple(plain["values"]),
            tuple(Region(r["name"], tuple(r["classes"]), r["paint"]) for r in plain["regions"]),
            tuple(plain["ignore_values"]),
        )

    @classmethod
    def from_mapping(
        cls,
        labels: Mapping[str, int | Sequence[int]],
        regions_class_order: Sequence[int] | None = None,
        ignore_values: Sequence[int] = (),
    ) -> LabelScheme:
        """The scheme that nnU-Net's `labels` mapping declares.

        Args:
            labels: Name to value (`{"background": 0, "tumour": 1}`). A list of values makes a
                region (`{"WT": [1, 2, 3]}`), and then every entry but background and `ignore` is
                one. An entry named `ignore` marks voxels nobody annotated.
            regions_class_order: For regions, the value painted for each, in their order
                (nnU-Net's key). Derived where every region, less the later ones inside it, leaves
                one value.
            ignore_values: Further values to ignore (the config's `loss.ignore_index`).

        Raises:
            IgnoredClassError: If `ignore_values` hold the background, or every other class.
            UserError: If background (value 0) is missing, a value has two names, or the painting
                order cannot be derived.
        """
        plain = dict(labels)
        ignored = {int(value) for value in ignore_values}
        for name in [name for name in plain if name.lower() == "ignore"]:
            ignored.update(_as_values(plain.pop(name)))
        background = next((n for n, v in plain.items() if _as_values(v) == (0,)), None)
        if background is None:
            raise UserError(
                "labels: no name has value 0. Declare the background, e.g. background: 0."
            )
        if 0 in ignore_values:
            raise IgnoredClassError("0 is the background.")
        del plain[background]
        named = ", ".join(plain)
        is_told = any(set(_as_values(value)) & set(ignore_values) for value in plain.values())
        plain = {
            name: value
            for name, value in plain.items()
            if not ignored.issuperset(_as_values(value))
        }
        if not plain and is_told:
            raise IgnoredClassError(
                f"leaves no class but the background: {named} would be ignored."
            )
        if all(len(_as_values(value)) == 1 for value in plain.values()):
            pairs = sorted((_as_values(value)[0], name) for name, value in plain.items())
            return cls(
                (background, *(name for _, name in pairs)),
                (0, *(value for value, _ in pairs)),
                ignore_values=tuple(sorted(ignored)),
            )
        members = {name: set(_as_values(value)) - ignored - {0} for name, value in plain.items()}
        values = (0, *sorted(set().union(*members.values())))
        single = {next(iter(m)): name for name, m in members.items() if len(m) == 1}
        return cls(
            (background, *(single.get(value, f"label {value}") for value in values[1:])),
            values,
            _regions(members, values, regions_class_order),
            tuple(sorted(ignored)),
        )

    @classmethod
    def preset(cls, name: str, ignore_values: Sequence[int] = ()) -> LabelScheme:
        """A published convention by name: one of `PRESETS`.

        Raises:
            IgnoredClassError: If one of its values is to be ignored.
            UserError: If there is none of that name.
        """
        if name not in PRESETS:
            raise UserError(f"labels: unknown preset {name!r}. Known: {', '.join(PRESETS)}.")
        names, values, regions = PRESETS[name]
        for value in ignore_values:
            if value in values:
                raise IgnoredClassError(f"{value} is {names[values.index(value)]} in {name}.")
        classes = {value: index for index, value in enumerate(values)}
        members = {key: {value for value in of if value in classes} for key, of in regions.items()}
        return cls(names, values, _regions(members, values, None), tuple(sorted({*ignore_values})))


PRESETS: dict[str, tuple[tuple[str, ...], tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "brats18-22": (
        ("background", "necrotic core", "oedema", "enhancing"),
        (0, 1, 2, 4),
        {"WT": (1, 2, 4), "TC": (1, 4), "ET": (4,)},
    ),
    "brats23": (
        ("background", "necrotic core", "oedema", "enhancing"),
        (0, 1, 2, 3),
        {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)},
    ),
    "brats24": (
        ("background", "non-enhancing core", "FLAIR hyperintensity", "enhancing", "cavity"),
        (0, 1, 2, 3, 4),
        {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,), "RC": (4,)},
    ),
    "msd-task01": (
        ("background", "oedema", "non-enhancing", "enhancing"),
        (0, 1, 2, 3),
        {"WT": (1, 2, 3), "TC": (2, 3), "ET": (3,)},
    ),
}
"""BraTS wrote enhancing tumour as 4 until 2022 and as 3 since; MSD Task01 numbers differently.

In 2024 (glioma after treatment, arXiv:2405.18368) 4 is the resection cavity, RC: no part of WT.
"""


def _as_values(value: int | Sequence[int]) -> tuple[int, ...]:
    return (int(value),) if isinstance(value, int) else tuple(int(v) for v in value)


def _whole(found: npt.NDArray[Any]) -> list[int]:
    """Distinct label values as integers.

    Raises:
        UserError: If one of them is not whole: truncated, it would pass for another class.
    """
    broken = [value for value in found.tolist() if not float(value).is_integer()]
    if broken:
        shown = ", ".join(f"{value:g}" for value in broken[:5])
        raise UserError(
            f"label holds {shown}, expected integers. Was it resampled with interpolation? "
            f"Resample labels with nearest neighbour."
        )
    return [int(value) for value in found.tolist()]


def _braces(values: npt.ArrayLike) -> str:
    return "{" + ",".join(str(int(v)) for v in np.asarray(values).ravel()) + "}"


def _check_painted(
    name: str, paint: int, members: Mapping[str, set[int]], later: Sequence[str]
) -> None:
    """The value is one of the region, and no region painted later holds all of this one."""
    if paint not in members[name]:
        raise UserError(
            f"data.regions_class_order: {paint} is to be written for {name}, which is made of "
            f"{sorted(members[name])}. Give a value of each region, in their order."
        )
    outer = next((other for other in later if members[other] > members[name]), None)
    if outer is not None:
        raise UserError(
            f"data.labels: {name} lies inside {outer}, which would be written over it. List outer "
            f"regions first, here and in data.regions_class_order."
        )


def _regions(
    members: Mapping[str, set[int]], values: Sequence[int], order: Sequence[int] | None
) -> tuple[Region, ...]:
    """Regions outermost first, with the class each one paints."""
    if order is not None and len(order) != len(members):
        raise UserError(
            f"labels: regions_class_order must have one value per region: expected "
            f"{len(members)}, got {len(order)}."
        )
    index = {value: i for i, value in enumerate(values)}
    built = []
    names = list(members)
    for i, name in enumerate(names):
        if order is not None:
            paint = int(order[i])
        else:
            inner = [members[other] for other in names[i + 1 :]]
            left = members[name].difference(*inner)
            if len(left) != 1:
                raise UserError(
                    f"data.labels: cannot tell which value to write for region {name} "
                    f"({sorted(left)} are left after the regions inside it). List outer regions "
                    f"first, or set data.regions_class_order."
                )
            paint = left.pop()
        if order is not None:
            _check_painted(name, paint, members, names[i + 1 :])
        built.append(Region(name, tuple(index[v] for v in sorted(members[name])), index[paint]))
    return tuple(built)
