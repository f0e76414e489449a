"""The Triton backend on a real device: the interpreter's cases, and what only a device can show."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed here")

from segfocal.ops import ClassSums, class_sums
from segfocal.ops.backend_choice import Request, choose_backend
from tests.gpu import no_waiting
from tests.ops.triton_cases import (
    COMBINATIONS,
    LABEL_DTYPES,
    SIZES,
    WIDE,
    WIDTHS,
    Case,
    assert_matches_reference,
    build,
    run,
    seeded,
)

pytestmark = pytest.mark.gpu

LARGE = [
    Case("softmax", 4, 48**3, ignored=(255,)),
    Case("softmax", 105, 20**3, gamma="class"),
    Case("softmax", 300, 20**3, dtype=torch.bfloat16),
    Case("softmax", 32, 30**3, mask="voxels", ignored=(0,), dtype=torch.bfloat16),
    Case("softmax", 12, 31**3, gamma=0.5),
    Case("softmax", 40, 20**3, mask="voxels", gamma="class"),
    Case("softmax", 7, 31**3, mask="channels"),
    Case("sigmoid", 3, 48**3, "regions", "voxels"),
    Case("sigmoid", 11, 30**3, "regions", dtype=torch.float16),
]


def name(case):
    return "-".join(str(field).removeprefix("torch.") for field in case)


@pytest.fixture
def unwritten_memory_is_nan():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "case", [*COMBINATIONS, *WIDTHS, *WIDE, *SIZES, *LABEL_DTYPES, *LARGE], ids=name
)
@pytest.mark.usefixtures("unwritten_memory_is_nan")
def test_sums_and_gradient_match_the_reference(case):
    assert_matches_reference(build(case).to("cuda"))


@pytest.mark.parametrize("case", LARGE, ids=name)
def test_the_same_input_gives_the_same_bits(case):
    arguments = build(case).to("cuda")
    first, second = run(arguments), run(arguments)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_auto_takes_it_on_a_cuda_device():
    assert choose_backend("auto", Request("cuda", torch.float32, "softmax")) == "triton"


def make_case(shape=(2, 4, 24, 24, 24), dtype=torch.float32):
    logits = 3 * torch.randn(shape, generator=seeded(0))
    labels = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=seeded(1))
    return logits.to("cuda", dtype).requires_grad_(), labels.to("cuda", torch.uint8)


def loss_of(logits, labels, backend="triton"):
    sums = class_sums(logits, labels, ignore_index=255, backend=backend)
    return sums.focal_pos.sum() / sums.n_valid.sum() + (sums.tp / (sums.p + sums.t)).mean()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_loss_and_gradient_equal_the_reference_backend(memory_format):
    logits, labels = make_case()
    logits = logits.detach().to(memory_format=memory_format).requires_grad_()
    losses = [loss_of(logits, labels, backend) for backend in ("triton", "reference")]
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in losses]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-10)
    assert grads[0].is_contiguous(memory_format=memory_format)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"  # opcheck's own, from torch 2.14 on
)
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_opcheck(activation):
    logits, labels = make_case((2, 3, 50))
    settings = (activation, 2.0, 0.0, [255], [0, 1, 2], [1, 1, 1], False, "product", "triton")
    tensors = logits, labels, None, None
    torch.library.opcheck(torch.ops.segfocal.class_sums.default, (*tensors, *settings))
    upstream = torch.randn(2, 7, 3, device="cuda")
    torch.library.opcheck(
        torch.ops.segfocal.class_sums_backward.default,
        (upstream, logits.detach(), *tensors[1:], *settings),
    )


def test_compiles_in_one_graph():
    logits, labels = make_case()
    torch._dynamo.reset()
    expected = loss_of(logits, labels)
    got = torch.compile(loss_of, fullgraph=True)(logits, labels)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    grads = [torch.autograd.grad(loss, logits)[0] for loss in (got, expected)]
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_the_sums_in_float32(dtype):
    logits, labels = make_case(dtype=dtype)
    with torch.autocast("cuda", dtype=dtype):
        inside = class_sums(logits, labels)
    outside = class_sums(logits, labels)
    for one, other in zip(inside, outside, strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other)


def test_nothing_waits_for_the_device():
    logits, labels = make_case()
    loss_of(logits, labels).backward()
    with no_waiting():
        loss_of(logits, labels).backward()


def test_nothing_but_the_gradient_is_allocated():
    logits, labels = make_case((2, 4, 64, 64, 64))
    loss_of(logits, labels).backward()
    logits.grad = None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    loss_of(logits, labels).backward()
    extra = torch.cuda.max_memory_allocated() - before - logits.nbytes
    assert extra <= 0.05 * logits.nbytes


def test_a_cuda_graph_replays_it():
    logits, labels = make_case()
    static = logits.detach().clone().requires_grad_()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.autograd.grad(loss_of(static, labels), static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        (captured,) = torch.autograd.grad(loss_of(static, labels), static)
    with torch.no_grad():
        static.copy_(2 * logits)
    graph.replay()
    (expected,) = torch.autograd.grad(loss_of(static, labels), static)
    assert torch.equal(captured, expected)


def test_more_elements_than_32_bits_can_number():
    half = 2**30 + 77
    free, _ = torch.cuda.mem_get_info()
    if free < 16 * 2**30:
        pytest.skip(f"needs 16 GiB of device memory, {free / 2**30:.0f} are free")
    logits = torch.randn(1, 2, half, device="cuda", dtype=torch.float16).requires_grad_()
    labels = torch.randint(0, 2, (1, half), device="cuda", dtype=torch.uint8)
    sums = class_sums(logits, labels)
    (grad,) = torch.autograd.grad(sums.focal_pos.sum() + sums.p_sq.sum(), logits)
    cut = half - 1000
    parts = [
        class_sums(logits[..., where], labels[:, where])
        for where in (slice(0, cut), slice(cut, None))
    ]
    for field, *pieces in zip(ClassSums._fields, *parts, strict=True):
        torch.testing.assert_close(getattr(sums, field), sum(pieces), rtol=1e-5, atol=0)
    tail = logits.detach()[..., cut:].clone().requires_grad_()
    end = class_sums(tail, labels[:, cut:])
    (truth,) = torch.autograd.grad(end.focal_pos.sum() + end.p_sq.sum(), tail)
    assert torch.equal(grad[..., cut:], truth)
