"""Mutated NIfTI files against the reader, under a limit on memory. Run by test_nifti_fuzz.py.

    python -m tests.data.fuzz_nifti [EXAMPLES [SEED]]          without SEED the same files each time

Every file is read in every way there is. What may come out: the voxels, or a `DefectError` of one
line. What may not: any other exception (warnings count as exceptions), more memory than the cap on
voxels allows, or more than two seconds for one file.
"""

import gzip
import resource
import struct
import sys
import tempfile
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisWarning

from segfocal.data import nifti_voxels
from segfocal.data.case_survey import SurveyRules, survey_case
from segfocal.data.cases import Case
from segfocal.data.defects import DefectError
from segfocal.data.label_values import count_label_values
from segfocal.data.nifti import read_image, read_label
from segfocal.data.nifti_header import read_header
from segfocal.errors import UserError
from segfocal.labels import LabelScheme

EXAMPLES = 1500
MAX_VOXELS = 1_000_000
MEMORY_BYTES = 256 << 20
"""Room above what the imports take: eight times what `MAX_VOXELS` of eight bytes need."""

RULES = SurveyRules(LabelScheme(("background", "tumour"), (0, 1)), ("CT",), None, 0.1, MAX_VOXELS)

# Offset, format and how many of the NIfTI-1 fields that decide what is read.
FIELDS = (
    (0, "i", 1),  # sizeof_hdr
    (40, "h", 8),  # dim
    (70, "h", 2),  # datatype, bitpix
    (76, "f", 8),  # pixdim
    (108, "f", 3),  # vox_offset, scl_slope, scl_inter
    (123, "b", 1),  # xyzt_units
    (252, "h", 2),  # form codes
    (256, "f", 18),  # both forms
    (344, "i", 1),  # magic
)
EXTREMES = {
    "b": (0, 1, 2, 3, 8, 127, -128),
    "h": (0, 1, -1, 2, 4, 5, 7, 16, 64, 255, 1024, 2304, 32767, -32768),
    "i": (0, 348, 540, -1, 2**31 - 1, -(2**31)),
    "f": (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 352.0, 1e-30, 1e38, -1e38, float("nan"), float("inf")),
}


def valid_files():
    """Decompressed bytes of a few small files, one for each way of storing."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, (6, 5, 4)).astype(np.uint8)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    images = [
        nib.Nifti1Image(label, affine),
        nib.Nifti1Image(label.astype(np.float32), affine),
        nib.Nifti1Image(rng.integers(0, 900, (6, 5, 4, 2)).astype(np.int16), affine),
        nib.Nifti2Image(label.astype(np.int32), affine),
        nib.Nifti1Image(label.astype(">i2"), affine, nib.Nifti1Header(endianness=">")),
    ]
    scaled = nib.Nifti1Image(label.astype(np.float64), affine)
    scaled.header.set_data_dtype(np.int16)
    return [image.to_bytes() for image in (*images, scaled)]


BASES = valid_files()
LITTLE = [raw for raw in BASES if raw[:4] == b"\x5c\x01\0\0"]


@st.composite
def headers(draw):
    """A file with fields of its header rewritten, in the byte order of the header."""
    raw = bytearray(draw(st.sampled_from(BASES)))
    order = ">" if raw[:4] in (b"\0\0\x01\x5c", b"\0\0\x02\x1c") else "<"
    for _ in range(draw(st.integers(1, 3))):
        offset, form, count = draw(st.sampled_from(FIELDS))
        size = struct.calcsize(form)
        offset += size * draw(st.integers(0, count - 1))
        random = st.binary(min_size=size, max_size=size)
        extreme = st.sampled_from([struct.pack(order + form, v) for v in EXTREMES[form]])
        raw[offset : offset + size] = draw(extreme | random)
    return bytes(raw)


@st.composite
def sizes(draw):
    """A file that promises any size, numbers of any type, its voxels anywhere."""
    raw = bytearray(draw(st.sampled_from(LITTLE)))
    dims = draw(st.lists(st.sampled_from((1, 2, 6, 100, 3000, 32767)), min_size=3, max_size=7))
    struct.pack_into(f"<{1 + len(dims)}h", raw, 40, len(dims), *dims)
    datatype, bits = draw(st.sampled_from(((2, 8), (4, 16), (16, 32), (64, 64), (1024, 64))))
    struct.pack_into("<2h", raw, 70, datatype, bits)
    if draw(st.booleans()):
        struct.pack_into("<f", raw, 108, draw(st.sampled_from(EXTREMES["f"])))
    return bytes(raw) + bytes(draw(st.sampled_from((0, 8, 2000, 3_000_000))))


@st.composite
def placements(draw):
    """A file whose forms and voxel sizes are anything."""
    raw = bytearray(draw(st.sampled_from(LITTLE)))
    struct.pack_into("<2h", raw, 252, *draw(st.tuples(*[st.integers(0, 5)] * 2)))
    number = st.sampled_from(EXTREMES["f"]) | st.floats(width=32)
    for offset in draw(st.sets(st.sampled_from((*range(76, 108, 4), *range(256, 328, 4))))):
        struct.pack_into("<f", raw, offset, draw(number))
    return bytes(raw)


@st.composite
def bytes_changed(draw, raws):
    """Bytes flipped, cut off, doubled, put in."""
    raw = bytearray(draw(raws))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        how = draw(st.sampled_from(("flip", "flip", "cut", "drop", "double", "insert")))
        if how == "flip" and raw:
            raw[at] ^= draw(st.integers(1, 255))
        elif how == "cut":
            del raw[at:]
        elif how == "drop":
            del raw[at : at + draw(st.integers(1, 40))]
        elif how == "double":
            raw[at:at] = raw[at : at + draw(st.integers(1, 400))]
        else:
            raw[at:at] = draw(st.binary(max_size=40))
    return bytes(raw)


headed = headers() | sizes() | placements()
plain = headed | bytes_changed(st.sampled_from(BASES)) | bytes_changed(headers())
zipped = plain.map(gzip.compress)
files = plain | zipped | bytes_changed(zipped | st.sampled_from(BASES).map(gzip.compress))


def outcome(read, *args, **options):
    """What was read, or the line why not."""
    try:
        return read(*args, **options)
    except UserError as error:
        refused = error
    line = str(refused)
    assert "\n" not in line
    assert "not to be had" not in line
    return refused


def try_every_reader(path):
    outcome(read_header, path)
    label = outcome(read_label, path, max_voxels=MAX_VOXELS)
    counted = outcome(count_label_values, path, max_voxels=MAX_VOXELS)
    outcome(read_image, Case("c", (path,), None), max_voxels=MAX_VOXELS)
    survey_case(Case("c", (path,), path), RULES)
    assert isinstance(label, DefectError) == isinstance(counted, DefectError), (label, counted)
    if isinstance(label, DefectError):
        return
    assert label.data.size <= MAX_VOXELS
    values, voxels = np.unique(label.data, return_counts=True)
    np.testing.assert_array_equal(counted.values, values)
    np.testing.assert_array_equal(counted.voxels, voxels)
    raw = path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        gzip.decompress(raw)  # what was accepted, Python's own reader accepts as well


def run(max_examples, seed_number=None):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.nii.gz"

        @settings(
            max_examples=max_examples,
            derandomize=seed_number is None,
            deadline=2000,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(files)
        def fuzz(raw):
            path.write_bytes(raw)
            try_every_reader(path)

        (fuzz if seed_number is None else seed(seed_number)(fuzz))()


def address_space_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    warnings.simplefilter("error")
    warnings.simplefilter("ignore", HypothesisWarning)
    # The limit on trailing bytes is there for bombs; small files need a small one.
    nifti_voxels._MAX_TRAILING_BYTES = 1 << 12
    limit = address_space_bytes() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    numbers = [int(text) for text in sys.argv[1:]]
    run(*(numbers or [EXAMPLES]))
    sys.stdout.write("survived\n")
