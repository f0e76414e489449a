"""Every backend that runs here means the same: values, gradients, and the same bits twice.

A new backend joins by standing in `BACKENDS`. What its `Support` does not take must be refused.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import pytest
import torch
from torch.nn import functional as F

from segfocal.ops import ClassSums, backends, class_sums
from segfocal.ops.backend_choice import BACKENDS, Request
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula

DEVICES = ("cpu", *(["cuda"] if torch.cuda.is_available() else []))
"""Where the cases lie. A backend takes those that its `Support` names."""

RUNNING = [
    pytest.param(name, device, id=f"{name}-{device}")
    for name, support in backends().items()
    for device in DEVICES
    if support.missing is None and (support.devices is None or device in support.devices)
]

SUM_TOLERANCE = {"rtol": 3e-6, "atol": 3e-5}
"""float32 sums of up to 2046 terms of order 1."""
GRAD_TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-6},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-5},
    torch.float16: {"rtol": 2**-10, "atol": 1e-5},
    torch.float64: {"rtol": 1e-11, "atol": 1e-12},
}
"""A few roundings of the logits' dtype."""

SHAPES = {"1023 voxels": (2, 3, 1023), "7x11x13": (1, 9, 7, 11, 13)}
ACTIVATIONS = ("softmax", "sigmoid")
TARGETS = ("labels", "regions", "channels", "shares")
MASKS = ("none", "voxels", "channels")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
GAMMAS = (0.0, 0.5, 1.0, 2.0, 1.7, "per class")


class Case(NamedTuple):
    logits: torch.Tensor
    target: torch.Tensor
    options: dict


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(
    shape=(2, 3, 1023),
    *,
    activation="softmax",
    target="labels",
    mask="none",
    gamma=2.0,
    ignored=(255,),
    dtype=torch.float32,
    device="cpu",
    **options,
):
    """Logits with confident voxels and NaN under whatever does not count."""
    batch, channels, *space = shape
    logits = 4 * torch.randn(shape, generator=seeded())
    labels = torch.randint(0, max(channels, 2), (batch, *space), generator=seeded(1))
    hidden = torch.zeros(batch, 1, *space, dtype=torch.bool)
    values = labels
    if target == "channels":
        values = F.one_hot(labels, channels).movedim(-1, 1).to(torch.uint8)
    if target == "shares":
        noise = torch.randn(shape, generator=seeded(2))
        values = noise.softmax(1) if activation == "softmax" else noise.sigmoid()
    if target == "regions":
        table = [(c,) if c % 2 else (c, (c + 1) % channels) for c in range(channels)]
        options["regions"] = tuple(table)
    if target in ("labels", "regions") and ignored:
        hidden = torch.rand(batch, 1, *space, generator=seeded(3)) < 0.1
        values = labels.masked_fill(hidden[:, 0], ignored[0])
        options["ignore_index"] = ignored
    if mask != "none":
        width = 1 if mask == "voxels" else channels
        inside = torch.rand(batch, width, *space, generator=seeded(4)) > 0.2
        if mask == "channels":
            inside[:, :2] = True
        options["mask"] = inside.to(device)
        hidden = hidden | ~inside
    if gamma == "per class":
        gamma = tuple(0.3 * c for c in range(channels))
    logits = logits.masked_fill(hidden, torch.nan).to(dtype)
    options |= {"activation": activation, "gamma": gamma}
    return Case(logits.to(device), values.to(device), options)


def request_of(case, *, device, dtype, target, mask, gamma="", **options):
    return Request(
        device,
        dtype,
        case.options["activation"],
        target=target,
        mask=mask,
        class_gamma=gamma == "per class",
        label_smoothing=options.get("label_smoothing", 0) > 0,
        overlap=options.get("overlap", "product"),
    )


def combined(sums):
    """One number that weighs every differentiable sum differently for each sample and class."""
    count = torch.arange(1, sums.t.numel() + 1, dtype=sums.t.dtype, device=sums.t.device)
    coefficients = (0.7, -0.3, 1.1, 0.4, -0.9)
    return sum(
        (weight * field * count.view_as(sums.t).sqrt()).sum()
        for weight, field in zip(coefficients, sums[:5], strict=True)
    )


def compute(case, backend, dtype=None):
    logits = (case.logits if dtype is None else case.logits.to(dtype)).detach().requires_grad_()
    sums = class_sums(logits, case.target, backend=backend, **case.options)
    (gradient,) = torch.autograd.grad(combined(sums), logits)
    return sums, gradient


def assert_matches_float64(case, backend, truth=None):
    sums, gradient = compute(case, backend)
    truth, true_gradient = truth or compute(case, "reference", torch.float64)
    dtype = case.logits.dtype
    tolerance = GRAD_TOLERANCE[dtype] if dtype == torch.float64 else SUM_TOLERANCE
    for name in ClassSums._fields:
        found, expected = getattr(sums, name).double(), getattr(truth, name)
        torch.testing.assert_close(found, expected, **tolerance, msg=name)
    torch.testing.assert_close(gradient.double(), true_gradient, **GRAD_TOLERANCE[dtype])


@pytest.fixture(autouse=True)
def uninitialised_memory_is_nan(monkeypatch):
    """An output that a backend forgets to write is NaN, and no comparison holds for it."""

    def fill(empty):
        def filled(*args, **kwargs):
            tensor = empty(*args, **kwargs)
            return tensor.fill_(torch.nan) if tensor.is_floating_point() else tensor

        return filled

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, fill(getattr(torch, name)))
    assert torch.empty(2).isnan().all()


@functools.cache
def case_and_truth(shape, **settings):
    case = make_case(shape, **settings)
    return case, compute(case, "reference", torch.float64)


def combinations():
    for shape, activation, target, mask in itertools.product(SHAPES, ACTIVATIONS, TARGETS, MASKS):
        if activation == "sigmoid" or target != "regions":
            yield shape, activation, target, mask


@pytest.mark.parametrize(("shape", "activation", "target", "mask"), list(combinations()))
@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_every_combination_matches_float64(backend, device, shape, activation, target, mask):
    """All dtypes, exponents and options, one after the other."""
    support = backends()[backend]
    asked = {"target": target, "mask": mask, "device": device}
    settings = [{"dtype": dtype} for dtype in DTYPES]
    settings += [{"dtype": torch.float32, "gamma": gamma} for gamma in GAMMAS]
    settings += [
        {"dtype": torch.float32, "gamma": 1.5, "label_smoothing": 0.2},
        {"dtype": torch.float32, "overlap": "minimum"},
        {"dtype": torch.float32, "label_smoothing": 0.1, "overlap": "minimum"},
    ]
    for setting in settings:
        case, truth = case_and_truth(SHAPES[shape], activation=activation, **asked, **setting)
        refusal = support.refusal(request_of(case, **asked, **setting))
        if refusal is None:
            assert_matches_float64(case, backend, truth)
        else:
            with pytest.raises(ValueError, match="cannot run"):
                compute(case, backend)


@pytest.mark.parametrize("num_channels", [1, 2, 33, 105, 300])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_any_number_of_channels(backend, device, activation, num_channels):
    if activation == "softmax" and num_channels == 1:
        pytest.skip("softmax needs two channels")
    case = make_case((1, num_channels, 301), activation=activation, device=device)
    if num_channels > 255:  # 255 is a class then
        case = make_case((1, num_channels, 301), activation=activation, ignored=(), device=device)
    assert_matches_float64(case, backend)


@pytest.mark.parametrize("num_channels", [3, 11])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_several_blocks_and_the_rest_of_one(backend, device, activation, num_channels):
    case = make_case((1, num_channels, 40_001), activation=activation, device=device)
    assert_matches_float64(case, backend)


LABEL_DTYPES = [
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
]


@pytest.mark.parametrize("dtype", LABEL_DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_labels_of_any_integer_dtype_give_the_same_bits(backend, device, activation, dtype):
    case = make_case(activation=activation, ignored=(100,), device=device)
    plain, plain_gradient = compute(case, backend)
    other, gradient = compute(case._replace(target=case.target.to(dtype)), backend)
    assert all(torch.equal(one, two) for one, two in zip(plain, other, strict=True))
    assert_same_bits(plain_gradient, gradient)


def layouts(logits):
    """The same values `(B, C, D, H, W)` in other layouts."""
    wide = logits.repeat_interleave(2, 1).repeat_interleave(2, 4)
    return {
        "channels_last_3d": logits.contiguous(memory_format=torch.channels_last_3d),
        "every other": wide[:, ::2, :, :, ::2],
        "transposed": logits.transpose(2, 4).contiguous().transpose(2, 4),
        "expanded": logits[:1].expand(2, -1, -1, -1, -1),
        "offset": torch.cat([logits, logits])[1:3],
    }


@pytest.mark.parametrize("layout", list(layouts(torch.zeros(1, 1, 1, 1, 1))))
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_strides_change_no_value(backend, device, dtype, activation, layout):
    case = make_case(
        (2, 4, 7, 11, 13), activation=activation, mask="channels", dtype=dtype, device=device
    )
    strided = layouts(case.logits.nan_to_num())[layout]
    mask = layouts(case.options["mask"])["channels_last_3d"]
    labels = case.target.transpose(1, 3).contiguous().transpose(1, 3)
    options = case.options | {"mask": mask}
    assert_matches_float64(Case(strided, labels, options), backend)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_a_repeated_call_gives_the_same_bits(backend, device, activation):
    case = make_case((2, 3, 30_011), activation=activation, gamma=1.3, device=device)
    (sums, gradient), (again, gradient_again) = (compute(case, backend) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(sums, again, strict=True))
    assert_same_bits(gradient, gradient_again)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_the_number_of_threads_changes_the_rounding_at_most(backend, device, activation):
    case = make_case((2, 3, 30_011), activation=activation, device=device)
    before, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            results.append(compute(case, backend))
    finally:
        torch.set_num_threads(before)
    for sums, gradient in results[1:]:
        for one, other in zip(sums, results[0][0], strict=True):
            if backend in ("numba", "chunked"):
                assert torch.equal(one, other)
            torch.testing.assert_close(one, other, **SUM_TOLERANCE)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_extreme_logits_stay_finite_and_nan_is_not_hidden(backend, device, activation):
    sizes = torch.tensor([0.0, 1e-8, 1.0, 16.0, 88.0, 104.0, 700.0, 3e4, 1e30])
    ends = torch.cat([-sizes, sizes])
    logits = torch.stack(torch.meshgrid(ends, ends, indexing="ij")).flatten(1)[None].to(device)
    labels = (torch.arange(logits.shape[2], device=device) % 2)[None]
    for gamma in (0.0, 0.5, 1.7, 2.0):
        case = Case(logits, labels, {"activation": activation, "gamma": gamma})
        sums, gradient = compute(case, backend)
        assert all(field.isfinite().all() for field in sums)
        assert gradient.isfinite().all()
    logits = torch.cat([logits, logits])
    logits[0, 1, 3] = torch.nan
    sums, gradient = compute(Case(logits, labels.expand(2, -1), case.options), backend)
    assert sums.p[0].isnan().any()
    assert not sums.p[1].isnan().any()
    assert gradient[0].isnan().any()
    assert gradient[1].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (2, 3)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_empty_and_spaceless_volumes(backend, device, activation, shape):
    logits = torch.zeros(shape, device=device, requires_grad=True)
    labels = torch.zeros((shape[0], *shape[2:]), dtype=torch.uint8, device=device)
    sums = class_sums(logits, labels, activation=activation, backend=backend)
    assert {tuple(field.shape) for field in sums} == {(shape[0], 3)}
    sum(field.sum() for field in sums).backward()
    assert logits.grad.shape == shape
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(("backend", "device"), RUNNING)
def test_the_inputs_are_left_as_they_were(backend, device):
    case = make_case(mask="channels", device=device)
    held = [case.logits, case.target, case.options["mask"]]
    before = [tensor.clone() for tensor in held]
    compute(case, backend)
    assert_same_bits(before[0], held[0])
    assert all(torch.equal(one, other) for one, other in zip(before[1:], held[1:], strict=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_chunks_of_any_size_give_the_same(monkeypatch, activation):
    case = make_case((3, 3, 101), activation=activation, mask="channels")
    whole, whole_gradient = compute(case, "chunked")
    for elements in (1, 97, 400):
        monkeypatch.setitem(chunked_sizes(), "cpu", elements)
        sums, gradient = compute(case, "chunked")
        for one, other in zip(sums, whole, strict=True):
            torch.testing.assert_close(one, other, **SUM_TOLERANCE)
        torch.testing.assert_close(gradient, whole_gradient, rtol=1e-6, atol=1e-7)


def chunked_sizes():
    from segfocal.ops import chunked_blocks

    return chunked_blocks.OPERATION_ELEMENTS


def test_forward_alone_does_no_backward_work(monkeypatch):
    def fail(*_arguments):
        raise AssertionError("the gradient was computed")

    case = make_case()
    for name in backends():
        monkeypatch.setitem(BACKENDS, name, BACKENDS[name]._replace(class_sums_backward=fail))
        with torch.no_grad():
            class_sums(case.logits, case.target, **case.options)


def test_a_backend_takes_what_the_op_gives_it_without_the_public_door():
    """The signatures that a new backend has to have."""
    logits = torch.randn(1, 2, 9, generator=seeded())
    target = FlatTarget(torch.zeros(1, 9, dtype=torch.uint8), None, ((0,), (1,)), ())
    for name, support in backends().items():
        if support.missing is None and (support.devices is None or "cpu" in support.devices):
            sums = BACKENDS[name].class_sums(logits, target, Formula("softmax", 2.0))
            assert sums.shape == (1, 7, 2)


def assert_same_bits(one, other):
    """Equal, NaN included."""
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
