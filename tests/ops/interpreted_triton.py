"""The Triton kernels in Triton's interpreter: run by `test_triton_interpreter.py`.

    TRITON_INTERPRET=1 python -m pytest tests/ops/interpreted_triton.py

The interpreter is chosen when triton is imported, so these tests need a process of their own.
"""

from __future__ import annotations

import operator
import os

import pytest
import torch
import triton
import triton.language as tl
from torch.nn import functional as F
from triton.language.extra import libdevice

from segfocal.ops import reference, triton_form, triton_formulas, triton_launch
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula
from tests.ops.triton_cases import (
    COMBINATIONS,
    LABEL_DTYPES,
    SIZES,
    WIDE,
    WIDTHS,
    Arguments,
    Case,
    assert_matches_reference,
    build,
    run,
    seeded,
    upstream_of,
)

assert os.environ.get("TRITON_INTERPRET") == "1"

# the interpreter knows no device libraries
libdevice.fast_expf = lambda x: tl.exp(x)
libdevice.fast_dividef = operator.truediv

pytestmark = pytest.mark.filterwarnings(
    # numpy speaks up where a lane that is not kept divides by zero or overflows
    "ignore::RuntimeWarning"
)


@pytest.fixture(autouse=True)
def unwritten_memory_is_nan():
    """What a kernel forgets to write fails a comparison."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def name(case):
    return "-".join(str(field).removeprefix("torch.") for field in case)


@pytest.mark.parametrize("case", COMBINATIONS, ids=name)
def test_sums_and_gradient_match_the_reference(case):
    assert_matches_reference(build(case))


@pytest.mark.parametrize("case", WIDTHS, ids=name)
def test_every_tile_width_matches_the_reference(case):
    assert_matches_reference(build(case))


@pytest.fixture
def few_channels_a_tile(monkeypatch):
    monkeypatch.setattr(triton_form, "MOST_CHANNELS_IN_A_TILE", 8)


@pytest.mark.parametrize("case", WIDE, ids=name)
@pytest.mark.usefixtures("few_channels_a_tile")
def test_tiles_of_channels_match_the_reference(case):
    arguments = build(case)
    launch, _ = triton_launch.forward_launch(*arguments)
    assert "wide" in launch.kernel.__name__
    assert_matches_reference(arguments)


@pytest.mark.parametrize("case", SIZES, ids=name)
def test_ragged_sizes_match_the_reference(case):
    assert_matches_reference(build(case))


@pytest.mark.parametrize("case", LABEL_DTYPES, ids=name)
def test_labels_of_every_integer_dtype_are_read_as_they_are(case):
    assert_matches_reference(build(case))


def test_an_ignored_label_that_the_dtype_cannot_hold_matches_nothing():
    case = Case("softmax", 3)
    logits, target, formula = build(case)
    plain = run(Arguments(logits, target, formula))
    odd = run(Arguments(logits, target._replace(ignored=(-1, 300, 2**40)), formula))
    assert torch.equal(plain[0], odd[0])
    assert torch.equal(plain[1], odd[1])


def test_a_label_beyond_32_bits_belongs_to_no_class():
    logits, target, formula = build(Case("softmax", 3, label_dtype=torch.int64))
    target.values[:, ::4] = 2**32 + 1
    target.values[:, 1::4] = -(2**32) + 1
    assert_matches_reference(Arguments(logits, target, formula))


@pytest.mark.parametrize("num_channels", [3, 11, 13])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_label_out_of_range_belongs_to_no_class(activation, num_channels):
    logits, target, formula = build(Case(activation, num_channels, label_dtype=torch.int16))
    target.values[:, ::4] = num_channels
    target.values[:, 1::4] = 16
    target.values[:, 2::4] = -1
    assert_matches_reference(Arguments(logits, target, formula))


POISON = (torch.nan, torch.inf, -torch.inf)


@pytest.mark.parametrize("how", ["ignore", "voxels", "channels"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_what_lies_under_an_excluded_voxel_changes_no_bit(activation, how):
    case = Case(activation, 4, mask="none" if how == "ignore" else how)
    logits, target, formula = build(case)
    hidden = torch.zeros(2, 4, 37, dtype=torch.bool)
    values = target.values.clone()
    mask = None
    if how == "ignore":
        hidden[:, :, ::3] = True
        values[:, ::3] = 255
    elif how == "voxels":
        hidden[:, :, ::3] = True
        mask = ~hidden[:, :1]
    else:
        hidden[:, 3, ::3] = True
        values[values == 3] = 0
        mask = ~hidden
    target = FlatTarget(values, mask, target.channel_classes, (255,))
    clean = run(Arguments(logits, target, formula))
    for poison in POISON:
        poisoned = run(Arguments(logits.masked_fill(hidden, poison), target, formula))
        assert torch.equal(poisoned[0], clean[0])
        assert torch.equal(poisoned[1], clean[1])
        assert (poisoned[1][hidden] == 0).all()


def test_a_voxel_whose_own_class_is_masked_out_counts_for_none():
    arguments = build(Case("softmax", 3, mask="channels"))
    mask = torch.ones(2, 3, 37, dtype=torch.bool)
    mask[:, 1] = False
    arguments = arguments._replace(target=arguments.target._replace(mask=mask))
    assert_matches_reference(arguments)
    sums, grad = run(arguments)
    own_is_out = arguments.target.values == 1
    assert torch.equal(sums[:, 6, 0], (~own_is_out).sum(1).float())
    assert (grad[own_is_out[:, None].expand_as(grad)] == 0).all()


@pytest.mark.parametrize("num_channels", [4, 20])
@pytest.mark.usefixtures("few_channels_a_tile")
def test_nan_in_a_valid_voxel_is_not_hidden(num_channels):
    logits, target, formula = build(Case("softmax", num_channels))
    logits[0, 1, 0] = torch.nan
    sums, grad = run(Arguments(logits, target, formula))
    assert sums[0, 3].isnan().all()
    assert not sums[1].isnan().any()
    assert grad[0, :, 0].isnan().all()
    assert not grad[0, :, 1:].isnan().any()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_extreme_logits_keep_the_reference_s_values(activation, gamma):
    sizes = torch.tensor([0.0, 1e-8, 1.0, 16.0, 60.0, 88.0, 104.0, 1e4])
    ends = torch.cat([-sizes, sizes])
    logits = torch.stack([*torch.meshgrid(ends, ends, indexing="ij")]).flatten(1)[None]
    labels = (torch.arange(logits.shape[2]) % 2)[None].to(torch.uint8)
    target = FlatTarget(labels, None, ((0,), (1,)), ())
    arguments = Arguments(logits.contiguous(), target, Formula(activation, gamma))
    for result in run(arguments):
        assert result.isfinite().all()
    assert_matches_reference(arguments)


@triton.jit
def both_logarithms(x, found, FORM: tl.constexpr):  # noqa: N803 - as in the kernels
    at = tl.arange(0, 1024)
    values = tl.load(x + at)
    tl.store(found + at, triton_formulas.log1p(values, FORM))
    tl.store(found + 1024 + at, triton_formulas.log1p_below_one(values, FORM))


def test_the_logarithms_keep_all_digits_of_float32():
    form = triton_form.make_form(
        "unrolled", *build(Case("softmax", 4)), triton_form.Tile(4, 128, 1)
    )
    found = torch.empty(2, 1024)
    for x in (torch.linspace(0, 1, 1024), torch.logspace(-30, 0, 1024)):
        both_logarithms[(1,)](x, found, form)
        truth = x.double().log1p().expand(2, 1024)
        torch.testing.assert_close(found.double(), truth, rtol=3e-7, atol=0)
    large = torch.logspace(0, 30, 1024)
    both_logarithms[(1,)](large, found, form)
    torch.testing.assert_close(found[0].double(), large.double().log1p(), rtol=3e-7, atol=0)


@pytest.mark.parametrize("num_channels", [3, 20])
@pytest.mark.parametrize("gamma", [0.0, 0.5])
@pytest.mark.usefixtures("few_channels_a_tile")
def test_minus_infinity_on_a_wrong_class_is_finite_as_in_cross_entropy(gamma, num_channels):
    logits, target, formula = build(Case("softmax", num_channels, gamma=gamma))
    target.values[target.values == 2] = 0
    logits[:, 2] = -torch.inf
    arguments = Arguments(logits, target, formula)
    assert_matches_reference(arguments)
    if gamma == 0:
        sums, _ = run(arguments)
        truth = F.cross_entropy(logits, target.values.long(), reduction="sum")
        torch.testing.assert_close(sums[:, 0].sum(), truth, rtol=1e-6, atol=0)


@pytest.mark.parametrize("channels", [2, 12, 300])
def test_minus_infinity_on_the_right_class_is_infinite_as_in_cross_entropy(channels):
    logits = torch.full((1, channels, 1), -torch.inf)
    logits[0, 1] = 0.0
    table = tuple((c,) for c in range(channels))
    target = FlatTarget(torch.tensor([[0]]), None, table, ())
    arguments = Arguments(logits, target, Formula("softmax", 0.0))
    focal = triton_launch.class_sums(*arguments)[0, 0].tolist()
    assert focal == [torch.inf] + [0.0] * (channels - 1)
    upstream = torch.zeros(1, 7, channels)
    upstream[:, 0] = 1
    grad = triton_launch.class_sums_backward(upstream, *arguments)
    assert grad.flatten().tolist() == [-1.0, 1.0] + [0.0] * (channels - 2)


def test_a_confident_voxel_keeps_its_digits():
    """1 - p is 2e-9 there, which float32 would lose next to 1."""
    logits = torch.tensor([[[20.0], [0.0]]])
    target = FlatTarget(torch.tensor([[0]]), None, ((0,), (1,)), ())
    upstream = torch.zeros(1, 7, 2)
    upstream[:, 0] = 1
    for activation in ("softmax", "sigmoid"):
        for gamma in (0.0, 0.5, 2.0):
            arguments = Arguments(logits, target, Formula(activation, gamma))
            exact = arguments._replace(logits=logits.double())
            for ours, truth in (
                (triton_launch.class_sums(*arguments), reference.class_sums(*exact)),
                (
                    triton_launch.class_sums_backward(upstream, *arguments),
                    reference.class_sums_backward(upstream.double(), *exact),
                ),
            ):
                kept = truth != 0
                torch.testing.assert_close(
                    ours[kept].double(), truth[kept], rtol=5e-6, atol=1e-37, msg=activation
                )


def layouts():
    base = torch.randn(2, 4, 60, generator=seeded(9))
    return {
        "channels_last": base.transpose(1, 2).contiguous().transpose(1, 2),
        "every second": torch.randn(2, 8, 120, generator=seeded(9))[:, ::2, ::2],
        "expanded": base[:1].expand(2, -1, -1),
        "batch last": base.movedim(0, 2).contiguous().movedim(2, 0),
    }


@pytest.mark.parametrize("layout", list(layouts()))
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_any_strides_are_read_in_place(activation, layout, monkeypatch):
    logits = layouts()[layout]
    labels = torch.randint(0, 4, (60, 2), generator=seeded(1), dtype=torch.uint8).t()
    mask = torch.rand(60, 4, 2, generator=seeded(2)).gt(0.2).permute(2, 1, 0)
    target = FlatTarget(labels, mask, tuple((c,) for c in range(4)), ())
    arguments = Arguments(logits, target, Formula(activation, 2.0))
    assert_matches_reference(arguments)
    plain = arguments._replace(logits=logits.contiguous())
    assert all(torch.equal(a, b) for a, b in zip(run(arguments), run(plain), strict=True))
    launch, gradient = triton_launch.backward_launch(upstream_of(logits), *arguments)
    assert launch.arguments["logits"].pointer.data_ptr() == logits.data_ptr()
    assert launch.arguments["mask"].pointer.data_ptr() == mask.data_ptr()
    assert gradient.stride() == torch.empty_like(logits).stride()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (0, 3, 0)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_zero_size_batch_and_volume(activation, shape):
    labels = torch.zeros(shape[0], shape[2], dtype=torch.uint8)
    target = FlatTarget(labels, None, ((0,), (1,), (2,)), (255,))
    sums, grad = run(Arguments(torch.zeros(shape), target, Formula(activation, 2.0)))
    assert torch.equal(sums, torch.zeros(shape[0], 7, 3))
    assert grad.shape == shape


def test_an_all_ignored_batch_has_sums_and_gradient_zero():
    logits, target, formula = build(Case("softmax", 3, ignored=(255,)))
    target.values.fill_(255)
    sums, grad = run(Arguments(logits, target, formula))
    assert (sums == 0).all()
    assert (grad == 0).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_same_input_gives_the_same_bits(activation):
    arguments = build(Case(activation, 3, 100, gamma=0.5))
    first, second = run(arguments), run(arguments)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_a_batch_is_its_samples(monkeypatch):
    monkeypatch.setitem(triton_launch._FEWEST_VOXELS, "forward", 64)
    logits, target, formula = build(Case("softmax", 3, 150))
    whole, _ = run(Arguments(logits, target, formula))
    for i in range(2):
        alone = target._replace(values=target.values[i : i + 1])
        sums, _ = run(Arguments(logits[i : i + 1], alone, formula))
        assert torch.equal(sums[0], whole[i])


def test_several_programs_and_blocks_cover_a_sample_once(monkeypatch):
    monkeypatch.setitem(triton_launch._FEWEST_VOXELS, "forward", 300)
    arguments = build(Case("softmax", 3, 1100, mask="voxels", ignored=(255,)))
    launch, _ = triton_launch.forward_launch(*arguments)
    assert launch.arguments["num_blocks"] > 1
    assert launch.arguments["num_programs"] > 1
    assert_matches_reference(arguments)


@pytest.mark.parametrize("axis", ["batch", "channel"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_offsets_past_32_bits(activation, axis, monkeypatch):
    """A tensor that spans 2^31 elements of which only a few are ever touched."""
    # The interpreter copies whole storages back onto themselves, which would touch every page.
    from triton.runtime.interpreter import GridExecutor

    monkeypatch.setattr(GridExecutor, "_restore_args_dev", lambda *_args: None)
    torch.use_deterministic_algorithms(False)
    far = 2**31 + 5
    spread = torch.empty(far + 200, dtype=torch.float16)
    stride = (far, 40, 1) if axis == "batch" else (40, far, 1)
    logits = spread.as_strided((2, 2, 37), stride)
    plain, target, formula = build(Case(activation, 2, dtype=torch.float16))
    logits.copy_(plain)
    expected = triton_launch.class_sums(plain, target, formula)
    assert torch.equal(triton_launch.class_sums(logits, target, formula), expected)
