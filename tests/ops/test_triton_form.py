"""What the Triton kernels are compiled for, and how a volume is shared out among programs."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed here")

from segfocal.ops import triton_form, triton_launch
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula

PLAIN = ((0,), (1,), (2,))


def form(values, table=PLAIN, ignored=(), mask=None, formula=None, dtype=torch.float32):
    logits = torch.empty(2, 3, 40, dtype=dtype, device="meta")
    formula = formula or Formula("sigmoid", 2.0)
    target = FlatTarget(values, mask, table, ignored)
    tile = triton_form.choose_tile("sigmoid", "forward", 3, dtype, has_own_class=False)
    return triton_form.make_form("sigmoid", logits, target, formula, tile)


LABELS = torch.zeros(2, 40, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("table", "words", "expected"),
    [
        (((1, 2, 3), (2, 3), (3,)), 1, (0b1110, 0b1100, 0b1000)),
        (((31,), (0,), (30, 31)), 1, (-(2**31), 1, -(2**31) + 2**30)),
        (((33,), (0, 64), (32,)), 3, (0, 2, 0, 1, 0, 1, 0, 1, 0)),
    ],
)
def test_region_tables_become_signed_words_of_32_labels(table, words, expected):
    made = form(LABELS, table)
    assert (made.target, made.words, made.regions) == ("regions", words, expected)


def test_one_class_a_channel_needs_no_table():
    made = form(LABELS)
    assert (made.target, made.words, made.regions) == ("labels", 1, ())


def test_only_ignored_labels_that_the_dtype_can_hold_are_compiled_in():
    assert form(LABELS, ignored=(-1, 255, 256, 2**40)).ignored == (255,)
    assert form(LABELS.long(), ignored=(-1, 2**40)).ignored == (-1, 2**40)


@pytest.mark.parametrize(
    ("gamma", "kind"), [(2.0, "two"), (2, "two"), (0.0, "number"), (torch.ones(3), "class")]
)
def test_a_gamma_is_an_argument_and_only_2_is_compiled_in(gamma, kind):
    assert form(LABELS, formula=Formula("sigmoid", gamma)).gamma == kind


def test_overlap_is_a_matter_of_shares_alone():
    minimum = Formula("sigmoid", 2.0, overlap="minimum")
    assert form(LABELS, formula=minimum).overlap == "product"
    assert form(torch.zeros(2, 3, 40), (), formula=minimum).overlap == "minimum"


def test_a_bool_tensor_is_read_as_bytes_in_place():
    mask = torch.ones(2, 3, 40, dtype=torch.bool)
    view = triton_form.make_view(mask[..., ::2])
    assert view.pointer.dtype == torch.uint8
    assert view.pointer.data_ptr() == mask.data_ptr()
    assert view[1:] == (120, 40, 2)


@pytest.mark.parametrize("num_channels", [2, 3, 4, 17, 105, 256, 257, 1000])
@pytest.mark.parametrize("num_voxels", [1, 511, 48**3, 128**3, 256**3, 2**31 + 1])
def test_programs_cover_the_volume_and_their_sums_stay_small(num_channels, num_voxels):
    logits = torch.empty(1, num_channels, num_voxels, device="meta", dtype=torch.bfloat16)
    labels = torch.empty(1, num_voxels, device="meta", dtype=torch.uint8)
    target = FlatTarget(labels, None, tuple((c,) for c in range(num_channels)), (255,))
    launch, partials = triton_launch.forward_launch(logits, target, Formula("softmax", 2.0))
    arguments = launch.arguments
    step = arguments["num_blocks"] * arguments["FORM"].voxels
    assert arguments["FORM"].channels >= min(num_channels, 257) // 33
    assert (arguments["num_programs"] - 1) * step < num_voxels <= arguments["num_programs"] * step
    assert partials.shape == (1, 7, num_channels, arguments["num_programs"])
    if num_voxels >= 48**3:
        assert partials.nbytes <= 0.06 * logits.nbytes


def test_how_a_sample_is_shared_out_does_not_depend_on_the_batch():
    def shares(num_samples):
        logits = torch.empty(num_samples, 3, 10**6, device="meta")
        labels = torch.empty(num_samples, 10**6, device="meta", dtype=torch.uint8)
        target = FlatTarget(labels, None, PLAIN, ())
        launch, _ = triton_launch.forward_launch(logits, target, Formula("softmax", 2.0))
        return launch.arguments["num_programs"], launch.arguments["num_blocks"]

    assert shares(1) == shares(7)
