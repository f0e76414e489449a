"""Gzip in bounded pieces, verified to the last byte: checksum, length, what follows the end.

zlib's and isal's `decompressobj` have one interface; isal is several times faster.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Generator, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, BinaryIO

_ISAL: Any = import_module("isal.isal_zlib") if find_spec("isal") else None

MAGIC = b"\x1f\x8b"

MAX_RATIO = 1032
"""Deflate cannot shrink by more: a match of 258 bytes costs at least two bits."""

PIECE_BYTES = 1 << 20

_READ_BYTES = 1 << 18
_GZIP_WBITS = 31

NewDecompressor = Callable[[], Any]


def zlib_decompressor() -> Any:
    """Python's own."""
    return zlib.decompressobj(_GZIP_WBITS)


def isal_decompressor() -> Any:
    """Intel's, from the package isal (`pip install segfocal[fast-io]`)."""
    return _ISAL.decompressobj(_GZIP_WBITS)


fastest_decompressor: NewDecompressor = zlib_decompressor if _ISAL is None else isal_decompressor
"""isal's where it is installed."""

ERRORS: tuple[type[Exception], ...] = (zlib.error,) if _ISAL is None else (zlib.error, _ISAL.error)


class GzipDamagedError(Exception):
    """The stream breaks its own promise; the text says how, for a message in brackets."""


class GzipCutShortError(Exception):
    """The stream ends before its trailer."""


def inflate(
    stream: BinaryIO,
    new_decompressor: NewDecompressor = fastest_decompressor,
    *,
    piece_bytes: int = PIECE_BYTES,
) -> Iterator[bytes]:
    """The decompressed bytes of a gzip file, in pieces of at most `piece_bytes`.

    Several members are joined; zeros behind the last one are padding. Whoever reads to the end
    knows that every checksum and length was right.

    Args:
        stream: At the start of the first member.
        new_decompressor: Makes the decompressor of a member.
        piece_bytes: Length of the longest piece: all that is held of the data.

    Raises:
        GzipDamagedError: If the stream is not gzip, or a checksum, a length or a byte is wrong.
        GzipCutShortError: If it ends early.
    """
    data = stream.read(_READ_BYTES)
    while data:
        if len(data) < len(MAGIC):
            data += stream.read(_READ_BYTES)
        if not data.startswith(MAGIC):
            raise GzipDamagedError(f"{data[:8]!r} follows its end")
        data = yield from _member(stream, data, new_decompressor(), piece_bytes)
        while data or (data := stream.read(_READ_BYTES)):
            data = data.lstrip(b"\0")
            if data:
                break


def _plain(error: Exception) -> str:
    """What is wrong, without the library's number for it."""
    return re.sub(r"^Error -?\d+ (while decompressing data: )?", "", str(error)).lower()


def _member(
    stream: BinaryIO, data: bytes, member: Any, piece_bytes: int
) -> Generator[bytes, None, bytes]:
    """One member's bytes; returns what follows it. Both libraries compare checksum and length."""
    while not member.eof:
        try:
            piece = member.decompress(data, piece_bytes)
        except ERRORS as error:
            raise GzipDamagedError(_plain(error)) from error
        data = member.unconsumed_tail
        if piece:
            yield piece
        elif not data and not member.eof:
            data = stream.read(_READ_BYTES)
            if not data:
                raise GzipCutShortError
    rest: bytes = member.unused_data
    return rest
