"""The chunked backend's ways: which runs when, that they agree, and what blocks may not do."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segfocal.ops import chunked, class_sums
from segfocal.ops.chunked_any_target import AnyTarget
from segfocal.ops.chunked_float_maps import FloatMapSigmoid
from segfocal.ops.chunked_hard_sigmoid import HardSigmoid
from segfocal.ops.chunked_label_softmax import FEW, LabelSoftmax
from segfocal.ops.flat_target import FlatTarget
from segfocal.ops.formula import Formula

PLAIN = ((0,), (1,), (2,))
FLOAT64_ROUNDING = {"rtol": 1e-11, "atol": 1e-12}
"""Sums of up to some thousand terms, computed in two ways."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sums_and_gradient(logits, target, backend="chunked", **options):
    """The sums `(7, B, C)` and the gradient of a sum that weighs every one differently."""
    leaf = logits.detach().requires_grad_()
    sums = class_sums(leaf, target, backend=backend, **options)
    weights = torch.randn(5, *sums.p.shape, generator=seeded(9)).to(sums.p.dtype)
    (gradient,) = torch.autograd.grad((torch.stack(sums[:5]) * weights).sum(), leaf)
    return torch.stack(sums).detach(), gradient


def make_case(shape, *, activation="softmax", target="labels", valid="all", dtype=torch.float64):
    """Labels, regions or one-hot maps; `valid` is all, voxels or channels."""
    batch, channels, voxels = shape
    logits = 5 * torch.randn(shape, generator=seeded(), dtype=dtype)
    labels = torch.randint(0, max(2, channels), (batch, voxels), generator=seeded(1))
    options = {"activation": activation}
    if target == "regions":
        options["regions"] = tuple((c, (c + 1) % channels) for c in range(channels))
    if valid != "all":
        width = 1 if valid == "voxels" else channels
        options["mask"] = torch.rand(batch, width, voxels, generator=seeded(2)) > 0.3
        logits = logits.masked_fill(~options["mask"], torch.nan)
    if valid == "voxels" and not target.endswith("maps"):
        labels[:, ::7], options["ignore_index"] = 255, 255
        logits[:, :, ::7] = torch.inf
    if target.endswith("maps"):
        labels = torch.rand(shape, generator=seeded(3)) > 0.6
        labels = labels.to(dtype) if target == "float maps" else labels
    return logits, labels, options


WAYS = [
    ("softmax", torch.zeros(1, 9, dtype=torch.int64), None, {}, LabelSoftmax),
    ("softmax", torch.zeros(1, 9, dtype=torch.uint8), 1, {}, LabelSoftmax),
    ("softmax", torch.zeros(1, 9, dtype=torch.int64), 3, {}, AnyTarget),
    ("softmax", torch.zeros(1, 3, 9, dtype=torch.bool), None, {}, AnyTarget),
    ("softmax", torch.zeros(1, 9, dtype=torch.int64), None, {"label_smoothing": 0.1}, AnyTarget),
    ("sigmoid", torch.zeros(1, 9, dtype=torch.int64), 3, {"overlap": "minimum"}, HardSigmoid),
    ("sigmoid", torch.zeros(1, 3, 9, dtype=torch.bool), 1, {}, HardSigmoid),
    ("sigmoid", torch.zeros(1, 3, 9), None, {}, FloatMapSigmoid),
    ("sigmoid", torch.zeros(1, 3, 9), None, {"label_smoothing": 0.1}, AnyTarget),
    ("softmax", torch.zeros(1, 3, 9), None, {}, AnyTarget),
    ("sigmoid", torch.zeros(1, 9, dtype=torch.int64), None, {"label_smoothing": 0.1}, AnyTarget),
]


@pytest.mark.parametrize(("activation", "values", "mask_width", "options", "expected"), WAYS)
def test_the_way_follows_the_target_and_the_options(
    activation, values, mask_width, options, expected
):
    mask = None if mask_width is None else torch.ones(1, mask_width, 9, dtype=torch.bool)
    target = FlatTarget(values, mask, PLAIN if values.ndim == 2 else (), ())
    formula = Formula(activation, 2.0, **options)
    assert chunked.path_for(torch.zeros(1, 3, 9), target, formula) is expected
    other_device = torch.zeros(1, 3, 9, device="meta")
    assert chunked.path_for(other_device, target, formula) is AnyTarget


def test_labels_that_are_no_classes_in_order_and_huge_ones_take_the_general_way():
    labels = torch.zeros(1, 9, dtype=torch.int64)
    for activation, table in (("softmax", ((1,), (0,))), ("sigmoid", ((1,), (2**24,)))):
        target = FlatTarget(labels, None, table, ())
        formula = Formula(activation, 2.0)
        assert chunked.path_for(torch.zeros(1, 2, 9), target, formula) is AnyTarget


QUICK = [
    ("softmax", "labels", "all"),
    ("softmax", "labels", "voxels"),
    ("sigmoid", "labels", "voxels"),
    ("sigmoid", "regions", "all"),
    ("sigmoid", "regions", "channels"),
    ("sigmoid", "maps", "voxels"),
    ("sigmoid", "float maps", "channels"),
]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, "per class"])
@pytest.mark.parametrize("shape", [(3, 2, 50), (2, FEW, 4001), (2, FEW + 1, 4001)], ids=str)
@pytest.mark.parametrize(("activation", "target", "valid"), QUICK)
def test_the_quick_ways_agree_with_the_general_one(
    monkeypatch, activation, target, valid, shape, gamma
):
    logits, labels, options = make_case(shape, activation=activation, target=target, valid=valid)
    options["gamma"] = gamma
    if gamma == "per class":
        options["gamma"] = tuple(0.25 * c for c in range(shape[1]))
    sums, gradient = sums_and_gradient(logits, labels, **options)
    monkeypatch.setattr(chunked, "path_for", lambda *_: AnyTarget)
    general, general_gradient = sums_and_gradient(logits, labels, **options)
    torch.testing.assert_close(sums, general, **FLOAT64_ROUNDING)
    torch.testing.assert_close(gradient, general_gradient, **FLOAT64_ROUNDING)


@pytest.mark.parametrize("overlap", ["product", "minimum"])
def test_a_block_of_float_maps_with_shares_is_not_taken_for_a_hard_one(monkeypatch, overlap):
    logits, maps, options = make_case((1, 2, 40_000), activation="sigmoid", target="float maps")
    maps[..., 7:11] = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=maps.dtype)
    ways = set()

    def noting(way):
        plain = way.sums

        def sums(self, *block):
            ways.add(way)
            return plain(self, *block)

        monkeypatch.setattr(way, "sums", sums)

    noting(HardSigmoid)
    noting(AnyTarget)
    options["overlap"] = overlap
    sums, gradient = sums_and_gradient(logits, maps, **options)
    assert ways == {HardSigmoid, AnyTarget}
    expected, expected_gradient = sums_and_gradient(logits, maps, backend="reference", **options)
    torch.testing.assert_close(sums, expected, **FLOAT64_ROUNDING)
    torch.testing.assert_close(gradient, expected_gradient, **FLOAT64_ROUNDING)


@pytest.mark.parametrize(
    ("activation", "shape"),
    [
        ("softmax", (2, 2, 150_001)),
        ("softmax", (1, 20, 70_001)),
        ("sigmoid", (1, 1, 600_001)),
        ("sigmoid", (1, 3, 200_001)),
    ],
    ids=str,
)
def test_the_number_of_threads_changes_no_bit(activation, shape):
    logits, labels, options = make_case(shape, activation=activation, dtype=torch.float32)
    before, results = torch.get_num_threads(), []
    try:
        for num_threads in (1, 2, 3):
            torch.set_num_threads(num_threads)
            results.append(sums_and_gradient(logits, labels, **options))
    finally:
        torch.set_num_threads(before)
    for sums, gradient in results[1:]:
        assert torch.equal(sums, results[0][0])
        assert torch.equal(gradient, results[0][1])


class LargestOperation(TorchDispatchMode):
    """The most elements that an operation worked on."""

    LEFT_OUT = ("empty", "new_", "index_select", "scatter_")
    """They take a tensor for its dtype, or work on no more elements than there are indices."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view and not func.__name__.startswith(self.LEFT_OUT):
            leaves = tree_leaves((args, kwargs, result))
            sizes = [leaf.numel() for leaf in leaves if isinstance(leaf, torch.Tensor)]
            self.elements = max(self.elements, *sizes)
        return result


@pytest.mark.parametrize("channels", [2, 3, 40])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("target", ["labels", "maps"])
def test_no_operation_is_so_large_that_torch_would_split_it_up(activation, target, channels):
    logits, values, _ = make_case((1, channels, 70_000), target=target, dtype=torch.float32)
    table = tuple((c,) for c in range(channels)) if target == "labels" else ()
    flat, formula = FlatTarget(values, None, table, ()), Formula(activation, 2.0)
    with LargestOperation() as largest:
        sums = chunked.class_sums(logits, flat, formula)
        chunked.class_sums_backward(sums, logits, flat, formula)
    assert 2**13 < largest.elements < 2**15


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_nothing_large_is_held_but_the_gradient(activation):
    logits, labels, options = make_case((2, 4, 96**3), activation=activation, dtype=torch.float32)
    logits.requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            sums = class_sums(logits, labels, backend="chunked", **options)
            sums.focal_pos.sum().backward()
    finally:
        torch.set_num_threads(before)
    live = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    size = logits.numel() * logits.element_size()
    assert 1 <= peak / size < 1.15


@pytest.mark.parametrize("channels", [3, FEW + 1])
def test_an_infinite_loss_stays_with_its_own_class(channels):
    logits = torch.randn(1, channels, 40, generator=seeded())
    labels = (torch.arange(40) % channels)[None]
    logits[0, 1, 1] = -torch.inf  # voxel 1 is of class 1
    sums, gradient = sums_and_gradient(logits, labels)
    assert sums[0, 0].isfinite().tolist() == [c != 1 for c in range(channels)]
    assert sums[1:].isfinite().all()
    assert gradient.isfinite().all()


def test_an_infinite_loss_stays_with_its_own_side():
    logits = torch.randn(1, 3, 40, generator=seeded())
    maps = torch.rand(1, 3, 40, generator=seeded(1)) > 0.5
    maps[0, :2, 0] = torch.tensor([True, False])
    logits[0, :2, 0] = torch.tensor([-torch.inf, torch.inf])
    sums, gradient = sums_and_gradient(logits, maps, activation="sigmoid")
    assert sums[0, 0].isfinite().tolist() == [False, True, True]
    assert sums[1, 0].isfinite().tolist() == [True, False, True]
    assert sums[2:].isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_confident_voxels_keep_their_digits(activation, gamma):
    """Relative to each value, which autograd's 1 - p has no digit of above 17."""
    margin = torch.linspace(-60, 25, 500)
    logits = torch.stack([torch.zeros_like(margin), margin])[None]
    labels = torch.ones(1, 500, dtype=torch.int64)
    options = {"activation": activation, "gamma": gamma}
    found = torch.autograd.functional.jacobian(
        lambda z: class_sums(z, labels, backend="chunked", **options).focal_pos[0, 1], logits
    )
    exact = torch.autograd.functional.jacobian(
        lambda z: class_sums(z, labels, backend="reference", **options).focal_pos[0, 1],
        logits.double(),
    )
    torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=1e-30)
