"""A prepared case as plain values with numbers in place of arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.utils.enums import TraceKeys

ALIGNMENT = 64
"""Arrays that lie behind one another begin at a multiple of so many bytes."""

Array = npt.NDArray[Any]


def encode(value: Any, arrays: list[Array]) -> Any:
    """Plain JSON values; arrays are put aside into `arrays` and numbered.

    Raises:
        TypeError: If there is anything but arrays, tensors and plain values in dicts, lists and
            tuples.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, MetaTensor):
        return {
            "volume": _put(value.as_tensor(), arrays),
            "affine": encode(value.affine, arrays),
            # The ids are those of transform objects of this process: MONAI compares them, or not.
            "operations": encode(
                [{**done, TraceKeys.ID: TraceKeys.NONE} for done in value.applied_operations],
                arrays,
            ),
        }
    if isinstance(value, torch.Tensor):
        return {"tensor": _put(value, arrays)}
    if isinstance(value, np.ndarray | np.generic):
        return {"array": _put(torch.from_numpy(np.array(value)), arrays)}
    if isinstance(value, Mapping):
        return {"dict": [[_text(name), encode(part, arrays)] for name, part in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [encode(part, arrays) for part in value]}
    raise TypeError(f"a case file holds arrays and plain values, got {type(value).__name__}.")


def decode(plain: Any, arrays: Sequence[Array]) -> Any:
    """The inverse of `encode`; tensors and arrays are views of `arrays`."""
    if not isinstance(plain, dict):
        return plain
    if "volume" in plain:
        return MetaTensor(
            torch.from_numpy(arrays[plain["volume"]]),
            affine=decode(plain["affine"], arrays).clone(),
            applied_operations=decode(plain["operations"], arrays),
        )
    (kind, content), *_ = plain.items()
    if kind == "tensor":
        return torch.from_numpy(arrays[content])
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {name: decode(part, arrays) for name, part in content}
    parts = [decode(part, arrays) for part in content]
    return parts if kind == "list" else tuple(parts)


def starts(arrays: Sequence[Array]) -> list[int]:
    """Where each array begins when they lie behind one another, and where the last one ends."""
    found, end = [], 0
    for array in arrays:
        found.append(end + -end % ALIGNMENT)
        end = found[-1] + array.nbytes
    return [*found, end]


def _put(tensor: torch.Tensor, arrays: list[Array]) -> int:
    arrays.append(tensor.detach().cpu().contiguous().numpy())
    return len(arrays) - 1


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a case file holds dicts with text keys, got {name!r}.")
    return str(name)
