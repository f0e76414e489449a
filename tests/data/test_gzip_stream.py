import gzip
import io
import zlib

import numpy as np
import pytest

from segfocal.data import gzip_stream
from segfocal.data.gzip_stream import GzipCutShortError, GzipDamagedError, inflate

LIBRARIES = [
    gzip_stream.zlib_decompressor,
    pytest.param(
        gzip_stream.isal_decompressor,
        marks=pytest.mark.skipif(
            gzip_stream.fastest_decompressor is gzip_stream.zlib_decompressor,
            reason="isal is not installed",
        ),
    ),
]
every_library = pytest.mark.parametrize("library", LIBRARIES)

NOISE = np.random.default_rng(0).integers(0, 256, 50_000).astype(np.uint8).tobytes()
CONTENTS = {"empty": b"", "zeros": bytes(3_000_000), "noise": NOISE, "both": NOISE + bytes(70_000)}


def pieces(raw, library, **options):
    return list(inflate(io.BytesIO(raw), library, **options))


@every_library
@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("piece_bytes", [1, 540, 1 << 20])
def test_the_pieces_make_up_what_gzip_decompresses(library, content, piece_bytes):
    raw = gzip.compress(CONTENTS[content][: 4000 if piece_bytes == 1 else None])
    found = pieces(raw, library, piece_bytes=piece_bytes)
    assert b"".join(found) == gzip.decompress(raw)
    assert all(0 < len(piece) <= piece_bytes for piece in found)


@every_library
def test_members_are_joined_and_zeros_behind_them_are_padding(library):
    raw = gzip.compress(b"one") + gzip.compress(b"") + gzip.compress(b"two") + bytes(300_000)
    assert b"".join(pieces(raw, library)) == b"onetwo"


@every_library
def test_what_follows_the_end_is_damage(library):
    with pytest.raises(GzipDamagedError, match="b'garbage' follows its end"):
        pieces(gzip.compress(b"one") + b"garbage", library)
    with pytest.raises(GzipDamagedError, match="follows its end"):
        pieces(gzip.compress(b"one") + bytes(9) + b"\x1f", library)


@every_library
@pytest.mark.parametrize("content", ["noise", "zeros"])
def test_a_wrong_byte_of_the_trailer_is_noticed(library, content):
    raw = gzip.compress(CONTENTS[content])
    for index in range(1, 9):
        wrong = bytearray(raw)
        wrong[-index] ^= 0x10
        with pytest.raises(GzipDamagedError):
            pieces(bytes(wrong), library)


@every_library
def test_the_trailer_of_every_member_is_checked(library):
    first = bytearray(gzip.compress(b"one" * 100))
    first[-1] ^= 1
    with pytest.raises(GzipDamagedError):
        pieces(bytes(first) + gzip.compress(b"two"), library)


@every_library
@pytest.mark.parametrize("lost", [1, 4, 8, 9, 100])
def test_a_stream_that_ends_early_is_cut_short(library, lost):
    with pytest.raises(GzipCutShortError):
        pieces(gzip.compress(NOISE)[:-lost], library)


@every_library
def test_the_trailer_may_lie_across_two_reads(library, monkeypatch):
    raw = gzip.compress(NOISE[:500])
    for read_bytes in (1, 3, len(raw) - 3, len(raw) - 8):
        monkeypatch.setattr(gzip_stream, "_READ_BYTES", read_bytes)
        assert b"".join(pieces(raw, library)) == NOISE[:500]


@every_library
def test_a_flag_that_gzip_knows_is_passed_over(library):
    deflated = zlib.compressobj(wbits=-15)
    body = deflated.compress(NOISE) + deflated.flush()
    header = b"\x1f\x8b\x08\x08" + bytes(6) + b"name.nii\0"
    trailer = zlib.crc32(NOISE).to_bytes(4, "little") + len(NOISE).to_bytes(4, "little")
    assert b"".join(pieces(header + body + trailer, library)) == NOISE


@every_library
def test_a_bomb_is_never_held(library):
    raw = gzip.compress(bytes(50_000_000))
    assert len(raw) < 60_000
    stream = inflate(io.BytesIO(raw), library)
    assert len(next(stream)) <= gzip_stream.PIECE_BYTES
