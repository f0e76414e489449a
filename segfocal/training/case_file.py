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
import torch

from segfocal.files import atomic_write
from segfocal.training.case_tree import ALIGNMENT, Array, decode, encode, starts

_MAGIC = b"SEGFOCAL-CASE-1\n"
_LENGTH_BYTES = 8
_HASH_BYTES = 32
_LARGEST_HEADER = 1 << 26
_CHUNK_BYTES = 1 << 20


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
        case: dict[str, Any] = decode(self._tree, arrays)
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
    tree = encode(case, arrays)
    entries: list[dict[str, Any]] = []
    parts: list[Any] = []
    end = 0
    for array, start in zip(arrays, starts(arrays), strict=False):
        parts += [bytes(start - end), array.reshape(-1).view(np.uint8).data]
        place = {"start": start, "bytes": array.nbytes}
        entries.append({"dtype": array.dtype.str, "shape": list(array.shape), **place})
        end = start + array.nbytes
    header = {"identity": identity, "tree": tree, "arrays": entries, "data_hash": _hash(*parts)}
    text = json.dumps(header).encode()
    text += b" " * (-(len(_MAGIC) + _LENGTH_BYTES + len(text) + _HASH_BYTES) % ALIGNMENT)
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
