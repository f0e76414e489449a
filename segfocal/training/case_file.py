"""One prepared case in one file: mapped into memory, not read, and never trusted unchecked.

Layout: magic, length of the header, header (JSON), hash of the header, data. The header holds what
the case was made from, the tree of values with numbers in place of arrays, and the hash of the
data; so every byte of the file is covered by one hash or the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.utils.enums import TraceKeys

from segfocal.files import atomic_write

_MAGIC = b"SEGFOCAL-CASE-1\n"
_LENGTH_BYTES = 8
_HASH_BYTES = 32
_ALIGNMENT = 64
_LARGEST_HEADER = 1 << 26
_CHUNK_BYTES = 1 << 20

Array = npt.NDArray[Any]


class DamagedCaseFileError(Exception):
    """A file that is not what was written: cut short, changed, or something else altogether."""


@dataclass(frozen=True)
class CaseFile:
    """The header of a case file.

    Attributes:
        path: The file.
        identity: What the case was made from, as `write_case_file` was given it.
        num_bytes: Size of the file.
    """

    path: Path
    identity: Any
    num_bytes: int
    _tree: Any
    _arrays: list[dict[str, Any]]
    _data_start: int
    _data_hash: str
    _header_hash: str

    def load(self, *, verify: bool) -> dict[str, Any]:
        """The case, its arrays and tensors mapped: a voxel is read when it is looked at.

        Changing a tensor changes neither the file nor what another process sees.

        Args:
            verify: Read the data once and compare its hash.

        Raises:
            DamagedCaseFileError: If the hash differs, or the file is no longer the one opened.
        """
        if verify and _hash_of_rest(self.path, self._data_start) != self._data_hash:
            raise DamagedCaseFileError("its checksum is wrong")
        # Private and writable: torch warns of read-only memory. No file handle stays open, as one
        # would for each of a thousand cases with mmap.mmap.
        raw = torch.from_file(str(self.path), shared=False, size=self.num_bytes, dtype=torch.uint8)
        if raw.numpy()[self._data_start - _HASH_BYTES : self._data_start].tobytes().hex() != (
            self._header_hash
        ):
            raise DamagedCaseFileError("it was replaced meanwhile")
        arrays = []
        for entry in self._arrays:
            start = self._data_start + entry["start"]
            part = raw.numpy()[start : start + entry["bytes"]]
            arrays.append(part.view(entry["dtype"]).reshape(entry["shape"]))
        case: dict[str, Any] = _decode(self._tree, arrays)
        return case


def write_case_file(path: Path, identity: Any, case: Mapping[str, Any]) -> None:
    """A prepared case and what it was made from, complete or absent.

    Args:
        path: In a folder that exists.
        identity: Plain JSON values; compared with `CaseFile.identity` by whoever reads the file.
        case: Tensors (MetaTensors with affine and applied operations), arrays, and plain values, in
            dicts, lists and tuples.

    Raises:
        TypeError: If the case holds anything else.
        OSError: If the file cannot be written.
    """
    arrays: list[Array] = []
    tree = _encode(case, arrays)
    entries: list[dict[str, Any]] = []
    parts: list[Any] = []
    start = 0
    for array in arrays:
        gap = -start % _ALIGNMENT
        parts += [bytes(gap), array.reshape(-1).view(np.uint8).data]
        place = {"start": start + gap, "bytes": array.nbytes}
        entries.append({"dtype": array.dtype.str, "shape": list(array.shape), **place})
        start += gap + array.nbytes
    header = {"identity": identity, "tree": tree, "arrays": entries, "data_hash": _hash(*parts)}
    text = json.dumps(header).encode()
    text += b" " * (-(len(_MAGIC) + _LENGTH_BYTES + len(text) + _HASH_BYTES) % _ALIGNMENT)
    with atomic_write(path) as stream:
        stream.write(_MAGIC + len(text).to_bytes(_LENGTH_BYTES, "little"))
        stream.write(text + bytes.fromhex(_hash(text)))
        for part in parts:
            stream.write(part)


def open_case_file(path: Path) -> CaseFile:
    """The header of a case file, checked; the data is neither read nor checked yet.

    Raises:
        DamagedCaseFileError: If this is not a whole case file.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as stream:
        magic = stream.read(len(_MAGIC))
        length = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        if magic != _MAGIC or length > _LARGEST_HEADER:
            raise DamagedCaseFileError("it does not begin as a case file does")
        text, found = stream.read(length), stream.read(_HASH_BYTES)
        size = stream.seek(0, 2)
    if len(text) < length or found.hex() != _hash(text):
        raise DamagedCaseFileError("its header is damaged")
    header = json.loads(text)
    entries = header["arrays"]
    data_start = len(_MAGIC) + _LENGTH_BYTES + length + _HASH_BYTES
    expected = data_start + (entries[-1]["start"] + entries[-1]["bytes"] if entries else 0)
    if size != expected:
        raise DamagedCaseFileError(f"it has {size} bytes instead of {expected}")
    return CaseFile(
        path,
        header["identity"],
        size,
        header["tree"],
        entries,
        data_start,
        header["data_hash"],
        found.hex(),
    )


def _hash(*parts: Any) -> str:
    digest = _new_hash()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _hash_of_rest(path: Path, start: int) -> str:
    """Read and forgotten: hashing the map would make the whole file part of this process."""
    digest = _new_hash()
    with path.open("rb") as stream:
        stream.seek(start)
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _new_hash() -> hashlib._Hash:
    # Twice as fast as blake2b where the processor has instructions for it, as most have.
    return hashlib.sha256()


def _encode(value: Any, arrays: list[Array]) -> Any:
    """Plain JSON values; arrays are put aside and numbered."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, MetaTensor):
        return {
            "volume": _put(value.as_tensor(), arrays),
            "affine": _encode(value.affine, arrays),
            # The ids are those of transform objects of this process: MONAI compares them, or not.
            "operations": _encode(
                [{**done, TraceKeys.ID: TraceKeys.NONE} for done in value.applied_operations],
                arrays,
            ),
        }
    if isinstance(value, torch.Tensor):
        return {"tensor": _put(value, arrays)}
    if isinstance(value, np.ndarray | np.generic):
        return {"array": _put(torch.from_numpy(np.array(value)), arrays)}
    if isinstance(value, Mapping):
        return {"dict": [[_text(name), _encode(part, arrays)] for name, part in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(part, arrays) for part in value]}
    raise TypeError(f"a case file holds arrays and plain values, got {type(value).__name__}.")


def _decode(plain: Any, arrays: list[Array]) -> Any:
    """The inverse of `_encode`."""
    if not isinstance(plain, dict):
        return plain
    if "volume" in plain:
        return MetaTensor(
            torch.from_numpy(arrays[plain["volume"]]),
            affine=_decode(plain["affine"], arrays).clone(),
            applied_operations=_decode(plain["operations"], arrays),
        )
    (kind, content), *_ = plain.items()
    if kind == "tensor":
        return torch.from_numpy(arrays[content])
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {name: _decode(part, arrays) for name, part in content}
    parts = [_decode(part, arrays) for part in content]
    return parts if kind == "list" else tuple(parts)


def _put(tensor: torch.Tensor, arrays: list[Array]) -> int:
    arrays.append(tensor.detach().cpu().contiguous().numpy())
    return len(arrays) - 1


def _text(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"a case file holds dicts with text keys, got {name!r}.")
    return str(name)
