"""The numbers of a NIfTI file as they are stored: piece by piece, or as one array; verified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from segfocal.data.defects import DefectError
from segfocal.data.foreign import is_foreign, nifti_bytes
from segfocal.data.gzip_stream import (
    MAGIC,
    PIECE_BYTES,
    GzipCutShortError,
    GzipDamagedError,
    inflate,
)
from segfocal.data.nifti_header import (
    HEADER_BYTES,
    MAX_VOXELS,
    Header,
    check_promise,
    parse_header,
    read_header,
    size_on_disk,
    times,
    too_short,
    unreadable,
)

_MAX_TRAILING_BYTES = 1 << 20


class StoredVoxels:
    """The voxels of one file, read once, of which only a piece is in memory at a time.

    Header, size on disk and promised size are checked when this is made; the rest while its pieces
    are read. Who iterates to the end knows that length and gzip checksum were right.

    Args:
        path: `.nii` or `.nii.gz`, told apart by content.
        max_voxels: Number of voxels above which the header is not believed.

    Attributes:
        header: The file's header.
        trailing_bytes: Bytes behind the last voxel, once the pieces were read.

    Raises:
        DefectError: If the file is missing, is not NIfTI, or promises what cannot be true.
    """

    def __init__(self, path: Path, *, max_voxels: int = MAX_VOXELS) -> None:
        self.trailing_bytes = 0
        self._path = path
        self._cap = max_voxels
        self._source = self._bytes()
        self._start = b""
        for piece in self._source:
            self._start += piece
            if len(self._start) >= HEADER_BYTES:
                break
        self.header = parse_header(path, self._start)
        check_promise(self.header, *size_on_disk(path), max_voxels=max_voxels)

    def pieces(self) -> Iterator[npt.NDArray[Any]]:
        """The stored numbers in the order of the file, unscaled, as 1-D read-only arrays. Once.

        Raises:
            DefectError: If the file is cut short, its gzip stream is damaged, or much more follows
                than the header promises.
        """
        dtype = self.header.dtype
        left = self.header.num_bytes
        skip = self.header.offset
        rest = b""
        for piece in self._chunks():
            usable = piece[skip:] if skip else piece
            skip = max(0, skip - len(piece))
            if rest:
                usable = rest + usable
            available = min(left, len(usable))
            count = available // dtype.itemsize
            if count:
                yield np.frombuffer(usable, dtype=dtype, count=count)
            taken = count * dtype.itemsize
            left -= taken
            rest = usable[taken:] if left else b""
            if not left:
                self._count_trailing(len(usable) - taken)
        if left:
            total = self.header.offset - skip + self.header.num_bytes - left + len(rest)
            raise too_short(self.header, f"the file has {total}")

    def _count_trailing(self, num_bytes: int) -> None:
        self.trailing_bytes += num_bytes
        if self.trailing_bytes > _MAX_TRAILING_BYTES:
            header = self.header
            raise DefectError(
                f"{header.path}: goes on for more than {_MAX_TRAILING_BYTES} bytes after the "
                f"{times(header.shape)} {header.dtype.name} voxels that its header promises. "
                f"Mend the header, or convert the file again.",
                "too-large",
            )

    def _chunks(self) -> Iterator[bytes]:
        yield self._start
        yield from self._source

    def _bytes(self) -> Iterator[bytes]:
        """The file, decompressed; another format as the NIfTI it would be."""
        if is_foreign(self._path):
            check_promise(read_header(self._path), *size_on_disk(self._path), max_voxels=self._cap)
            yield nifti_bytes(self._path)
            return
        try:
            with self._path.open("rb") as stream:
                zipped = stream.read(len(MAGIC)) == MAGIC
                stream.seek(0)
                yield from inflate(stream) if zipped else _plain(stream)
        except (OSError, GzipDamagedError, GzipCutShortError) as error:
            raise unreadable(self._path, error) from error


@dataclass(frozen=True, eq=False)
class Stored:
    """A file's numbers in memory.

    Attributes:
        header: The file's header.
        array: As stored, unscaled, in the shape and (Fortran) order of the file.
        trailing_bytes: Bytes behind the last voxel, which mean nothing.
    """

    header: Header
    array: npt.NDArray[Any]
    trailing_bytes: int


def read_stored(path: Path, *, max_voxels: int = MAX_VOXELS) -> Stored:
    """The whole file; takes the memory of its voxels and one piece.

    Raises:
        DefectError: If the file is missing, damaged, cut short, not NIfTI, or too large.
    """
    voxels = StoredVoxels(path, max_voxels=max_voxels)
    header = voxels.header
    try:
        flat = np.empty(header.num_voxels, dtype=header.dtype)
    except MemoryError as error:
        raise DefectError(
            f"{path}: {times(header.shape)} {header.dtype.name} needs "
            f"{header.num_bytes / 2**30:.1f} GB of memory, which is not to be had. Close other "
            f"programs, or crop the volume.",
            "too-large",
        ) from error
    done = 0
    for piece in voxels.pieces():
        flat[done : done + piece.size] = piece
        done += piece.size
    return Stored(header, flat.reshape(header.shape, order="F"), voxels.trailing_bytes)


def _plain(stream: BinaryIO) -> Iterator[bytes]:
    while data := stream.read(PIECE_BYTES):
        yield data
