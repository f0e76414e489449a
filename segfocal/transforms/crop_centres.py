"""Voxels to centre crops on, as flat indices: the functions behind the crop-index transforms."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from scipy import ndimage

Indices = npt.NDArray[np.signedinteger[Any]]
"""Flat indices of voxels: int32 where every voxel of the volume has one, else int64."""

Absent = Literal["anywhere", "skip"]
"""What a class without a voxel gets: every voxel that is not ignored, or an empty list."""

ABSENT = ("anywhere", "skip")


def class_indices(
    classes: npt.NDArray[Any], known: npt.NDArray[np.bool_], num_classes: int, name: str
) -> list[Indices]:
    """Flat indices of the voxels of every class, ascending; ignored voxels are in no list.

    Args:
        classes: Class indices of any shape.
        known: Where somebody annotated, from `known_voxels`.
        num_classes: C, background included.
        name: What to call the case in an error.

    Raises:
        ValueError: If a value is no class.
    """
    flat, known = classes.ravel(), known.ravel()
    background = np.flatnonzero(known & (flat == 0))
    foreground = np.flatnonzero(known & (flat != 0))
    values = flat[foreground]
    strange = values[~np.isin(values, np.arange(1, num_classes))]
    if strange.size:
        raise ValueError(
            f"{name}: holds {strange[0]:g}, expected class indices 0 to {num_classes - 1}, and "
            f"ignore_index where ignored. Encode the label first, or set num_classes."
        )
    return [background, *(foreground[values == c] for c in range(1, num_classes))]


def known_voxels(
    classes: npt.NDArray[Any], ignored: Sequence[int], name: str
) -> npt.NDArray[np.bool_]:
    """Where somebody annotated: True, of the shape of `classes`.

    Args:
        classes: Class indices of any shape.
        ignored: Values of voxels that nobody annotated.
        name: What to call the case in an error.

    Raises:
        ValueError: If every voxel is ignored.
    """
    known = np.ones(classes.shape, dtype=bool)
    for value in ignored:
        known &= classes != value
    if not known.any():
        values = " or ".join(map(str, ignored))
        raise ValueError(
            f"{name}: every voxel is ignored (holds {values}), so no crop can be centred in it. "
            f"Take the case out, or check ignore_index."
        )
    return known


def components(mask: npt.NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """Connected parts of a mask, corners included (26 neighbours in 3-D).

    Args:
        mask: Boolean array of any shape.

    Returns:
        Flat indices of the voxels inside, ascending, and for each the number of its part (from 1).
    """
    inside = np.flatnonzero(mask)
    if inside.size == 0:
        return inside, inside
    places = np.unravel_index(inside, mask.shape)
    low = [int(place.min()) for place in places]
    box = tuple(
        slice(first, int(place.max()) + 1) for first, place in zip(low, places, strict=True)
    )
    numbered, _ = ndimage.label(mask[box], np.ones((3,) * mask.ndim))
    numbers = numbered[tuple(place - first for first, place in zip(low, places, strict=True))]
    return inside, numbers.astype(np.int64)


def groups_of(indices: Indices, numbers: Indices) -> list[Indices]:
    """`indices` split by `numbers`, groups in ascending order of their number."""
    if indices.size == 0:
        return []
    order = np.argsort(numbers, kind="stable")
    return np.split(indices[order], np.flatnonzero(np.diff(numbers[order])) + 1)


def thinned(indices: Indices, most: int) -> Indices:
    """At most so many of the indices, ascending; the same ones at every call.

    Drawn without replacement by a generator seeded from the count.
    """
    if indices.size <= most:
        return indices
    generator = np.random.default_rng(indices.size)
    return np.sort(generator.choice(indices, most, replace=False))


def equally_by_group(groups: Sequence[Indices], most: int) -> Indices:
    """A list in which every group has the same number of entries.

    A uniform draw from it is a uniform draw of a group, then of a voxel in it. A voxel of a small
    group stands in the list several times; of a large one a fixed random part is kept.

    Args:
        groups: Indices of each group, none empty.
        most: Length of the list at most (but each group has an entry).
    """
    if not groups:
        return np.empty(0, dtype=np.int64)
    each = max(1, min(max(len(group) for group in groups), most // len(groups)))
    generator = np.random.default_rng(sum(len(group) for group in groups))
    parts = []
    for group in groups:
        whole, rest = divmod(each, len(group))
        parts += [group] * whole
        parts.append(generator.choice(group, rest, replace=False))
    return np.concatenate(parts)


def filled(
    lists: Sequence[Indices],
    absent: Absent,
    most: int,
    known: npt.NDArray[np.bool_],
) -> list[Indices]:
    """Lists as they are kept: cut down to `most`, empty ones filled, in the smallest integers.

    Args:
        lists: Flat indices.
        absent: What an empty list gets.
        most: Entries at most.
        known: Of the volume they are indices of: where somebody annotated.
    """
    anywhere = np.empty(0, dtype=np.int64)
    if absent == "anywhere" and not all(indices.size for indices in lists):
        anywhere = np.flatnonzero(known)
    # Half the memory: the lists of a small volume can take as much as its image.
    smallest = np.int32 if known.size <= np.iinfo(np.int32).max else np.int64
    return [thinned(i if i.size else anywhere, most).astype(smallest) for i in lists]


def as_classes(label: Any, name: str) -> npt.NDArray[Any]:
    """The integers `(*S)` of a label `(1, *S)`, tensor or array, floats that are whole included.

    Args:
        label: The label.
        name: What to call the case in an error.

    Raises:
        ValueError: If the label has several channels, or values that are not whole.
    """
    plain = label.as_tensor() if isinstance(label, MetaTensor) else label
    array: npt.NDArray[Any] = torch.as_tensor(plain).cpu().numpy()
    if array.shape[0] != 1:
        raise ValueError(
            f"{name}: expected a label (1, *S) of class indices, got shape {array.shape}."
        )
    classes: npt.NDArray[Any] = array[0]
    broken = classes[classes != np.rint(classes)] if classes.dtype.kind == "f" else classes[:0]
    if broken.size:
        raise ValueError(
            f"{name}: expected whole numbers, got {broken[0]:g}: the label was interpolated. "
            f"Resample it with mode nearest, which a lazy Compose of MONAI forgets unless it has "
            f'overrides={{"label": {{"mode": "nearest"}}}}.'
        )
    return classes


def case_name(data: Mapping[Hashable, Any], key: Hashable) -> str:
    """What to call a case in an error: the label's file, else `case_id`, else the key."""
    value = data.get(key)
    source = value.meta.get("filename_or_obj") if isinstance(value, MetaTensor) else None
    return str(source or data.get("case_id") or key)
