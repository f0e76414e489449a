"""The op against a naive float64 oracle, and its contract with torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from segfocal.ops import ClassSums, class_sums

INTEGER_DTYPES = [
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
]
BRATS = ((1, 2, 3), (2, 3), (3,))
COEFFICIENTS = torch.tensor([0.7, -0.3, 1.1, 0.4, -0.9], dtype=torch.float64)
"""Arbitrary weights of the five differentiable sums, so that every one shapes the gradient."""

EXACT = {"rtol": 1e-11, "atol": 1e-12}
"""float64 against float64, over fewer than 1000 terms."""


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_case(shape=(2, 4, 3, 5), seed=0, dtype=torch.float64):
    generator = seeded(seed)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, shape[1], (shape[0], *shape[2:]), generator=generator)
    return logits.to(dtype).requires_grad_(), labels


def assert_matches_naive(naive, logits, target, *, activation, gamma, **options):
    ours = {name: options[name] for name in options if name != "ignored"}
    if options.get("ignored"):
        ours["ignore_index"] = options["ignored"]
    sums = class_sums(logits, target, activation=activation, gamma=gamma, **ours)
    oracle = naive(logits, target, activation=activation, gamma=gamma, **options)
    for name, value in oracle.items():
        torch.testing.assert_close(getattr(sums, name), value, **EXACT, msg=name)
    (grad,) = torch.autograd.grad(combined(sums), logits)
    (truth,) = torch.autograd.grad(combined(ClassSums(**oracle)), logits)
    torch.testing.assert_close(grad, truth, **EXACT)


def combined(sums):
    """One number that weighs every differentiable sum differently for each sample and class."""
    per_class = torch.arange(1, sums.t.numel() + 1, dtype=sums.t.dtype).view_as(sums.t).sqrt()
    return sum(
        (weight.to(field) * field * per_class).sum()
        for weight, field in zip(COEFFICIENTS, sums[:5], strict=True)
    )


@pytest.mark.parametrize("gamma", [0, 0.5, 1.0, 2, 3.7, (0.0, 0.5, 2.0, 3.0)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_sums_and_gradient_match_the_naive_formulas(naive, activation, gamma):
    logits, labels = make_case()
    assert_matches_naive(naive, logits, labels, activation=activation, gamma=gamma)


@pytest.mark.parametrize("spatial", [(), (7,), (3, 4), (2, 3, 4), (2, 1, 3, 2)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_any_number_of_spatial_axes(naive, activation, spatial):
    logits, labels = make_case((3, 4, *spatial))
    assert_matches_naive(naive, logits, labels, activation=activation, gamma=2.0)
    assert_matches_naive(naive, logits, labels.unsqueeze(1), activation=activation, gamma=2.0)


@pytest.mark.parametrize("dtype", INTEGER_DTYPES)
def test_every_integer_dtype_means_the_same_labels(dtype):
    logits, labels = make_case()
    expected = class_sums(logits, labels)
    for name, value in zip(ClassSums._fields, class_sums(logits, labels.to(dtype)), strict=True):
        assert torch.equal(value, getattr(expected, name))


def test_bool_labels_are_two_classes():
    logits, labels = make_case((2, 2, 5))
    assert torch.equal(class_sums(logits, labels == 1).tp, class_sums(logits, labels).tp)


@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.bool, torch.float32])
def test_single_channel_takes_binary_labels_and_binary_maps(naive, target_dtype):
    logits, _ = make_case((2, 1, 4, 5))
    binary = torch.randint(0, 2, (2, 1, 4, 5), generator=seeded(3)).to(target_dtype)
    assert_matches_naive(naive, logits, binary, activation="sigmoid", gamma=1.5)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("target_dtype", [torch.uint8, torch.bool, torch.float32, torch.float64])
def test_one_hot_equals_labels(activation, target_dtype):
    logits, labels = make_case()
    one_hot = F.one_hot(labels, 4).movedim(-1, 1).to(target_dtype)
    from_labels = class_sums(logits, labels, activation=activation)
    from_one_hot = class_sums(logits, one_hot, activation=activation)
    for name in ClassSums._fields:
        torch.testing.assert_close(
            getattr(from_one_hot, name), getattr(from_labels, name), **EXACT, msg=name
        )


@pytest.mark.parametrize("gamma", [0.0, 0.7, 2.0])
def test_soft_softmax_targets_weigh_each_class_linearly(naive, gamma):
    logits, _ = make_case()
    shares = torch.softmax(torch.randn(2, 4, 3, 5, generator=seeded(5), dtype=torch.float64), 1)
    assert_matches_naive(naive, logits, shares, activation="softmax", gamma=gamma)


@pytest.mark.parametrize("gamma", [0.0, 0.7, 2.0])
def test_soft_sigmoid_targets_weigh_both_sides_linearly(naive, gamma):
    logits, _ = make_case()
    shares = torch.rand(2, 4, 3, 5, generator=seeded(5), dtype=torch.float64)
    assert_matches_naive(naive, logits, shares, activation="sigmoid", gamma=gamma)


@pytest.mark.parametrize("ignored", [(255,), (0,), (2, 255), (-1,)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_ignored_labels_leave_every_sum(naive, activation, ignored):
    logits, labels = make_case()
    labels[0, 1] = labels[1, :, 2] = ignored[0]
    assert_matches_naive(naive, logits, labels, activation=activation, gamma=2.0, ignored=ignored)


def test_regions_from_labels_equal_region_maps(naive):
    logits, _ = make_case((2, 3, 4, 5))
    labels = torch.randint(0, 4, (2, 4, 5), generator=seeded(2))
    assert_matches_naive(naive, logits, labels, activation="sigmoid", gamma=2.0, regions=BRATS)
    maps = torch.stack([torch.isin(labels, torch.tensor(r)) for r in BRATS], 1)
    from_labels = class_sums(logits, labels, activation="sigmoid", regions=BRATS)
    from_maps = class_sums(logits, maps, activation="sigmoid")
    for one, other in zip(from_labels, from_maps, strict=True):
        assert torch.equal(one, other)


def test_regions_with_ignore_keep_the_background_supervised(naive):
    logits, _ = make_case((2, 3, 4, 5))
    labels = torch.randint(0, 4, (2, 4, 5), generator=seeded(2))
    labels[:, 0] = 255
    assert_matches_naive(
        naive, logits, labels, activation="sigmoid", gamma=2.0, regions=BRATS, ignored=(255,)
    )
    sums = class_sums(logits, labels, activation="sigmoid", regions=BRATS, ignore_index=255)
    assert sums.n_valid.tolist() == [[15.0] * 3] * 2


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_mask_and_ignore_apply_together(naive, activation, width):
    logits, labels = make_case()
    labels[0, 1] = 255
    mask = torch.rand(2, width, 3, 5, generator=seeded(4)) > 0.3
    assert_matches_naive(
        naive, logits, labels, activation=activation, gamma=1.5, ignored=(255,), mask=mask
    )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_mask_applies_to_one_hot_and_soft_targets(naive, activation):
    logits, labels = make_case()
    mask = torch.rand(2, 4, 3, 5, generator=seeded(4)) > 0.3
    one_hot = F.one_hot(labels, 4).movedim(-1, 1).double()
    softened = 0.9 * one_hot + 0.025
    assert_matches_naive(naive, logits, one_hot, activation=activation, gamma=1.5, mask=mask)
    assert_matches_naive(naive, logits, softened, activation=activation, gamma=1.5, mask=mask)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_unannotated_channel_gets_no_gradient(activation):
    logits, labels = make_case()
    labels[labels == 2] = 0
    mask = torch.ones(2, 4, 1, 1, dtype=torch.bool).expand(2, 4, 3, 5).clone()
    mask[:, 2] = False
    combined(class_sums(logits, labels, activation=activation, mask=mask)).backward()
    assert (logits.grad[:, 2] == 0).all()
    assert (logits.grad[:, [0, 1, 3]] != 0).all()


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("how", ["ignore", "voxel mask", "channel mask"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_what_lies_under_an_excluded_voxel_changes_no_bit(activation, how, poison):
    logits, labels = make_case()
    hidden = torch.zeros(2, 4, 3, 5, dtype=torch.bool)
    if how == "channel mask":
        hidden[:, 3, :, 1] = True
        labels[labels == 3] = 0
    else:
        hidden[:, :, :, 1] = True
    options = {"mask": ~hidden if how == "channel mask" else ~hidden[:, :1]}
    if how == "ignore":
        labels[:, :, 1] = 255
        options = {"ignore_index": 255}
    poisoned = logits.detach().masked_fill(hidden, poison).requires_grad_()
    grads = []
    for values in (logits, poisoned):
        sums = class_sums(values, labels, activation=activation, **options)
        grads.append(torch.autograd.grad(combined(sums), values)[0])
        assert torch.isfinite(combined(sums))
    assert torch.equal(grads[0], grads[1])
    assert (grads[1][hidden] == 0).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_nan_in_a_valid_voxel_is_not_hidden(activation):
    logits, labels = make_case()
    with torch.no_grad():
        logits[0, 1, 0, 0] = torch.nan
    sums = class_sums(logits, labels, activation=activation, ignore_index=255)
    assert sums.p[0].isnan().any()
    assert not sums.p[1].isnan().any()
    assert torch.autograd.grad(sums.p.sum(), logits)[0].isnan().any()


def test_minus_infinity_on_a_wrong_class_is_finite_as_in_cross_entropy():
    logits, labels = make_case()
    with torch.no_grad():
        logits[:, 3] = -torch.inf
        logits[0, 2, 0] = -torch.inf
    labels[labels == 3] = 0
    labels[0, 0] = 1
    loss = class_sums(logits, labels, gamma=0).focal_pos.sum()
    truth = F.cross_entropy(logits, labels, reduction="sum")
    torch.testing.assert_close(loss, truth, **EXACT)
    (grad,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(grad, torch.autograd.grad(truth, logits)[0], **EXACT)
    (focal_grad,) = torch.autograd.grad(combined(class_sums(logits, labels, gamma=0.5)), logits)
    assert focal_grad.isfinite().all()


def test_minus_infinity_on_the_right_class_is_infinite_as_in_cross_entropy():
    logits = torch.tensor([[[-torch.inf], [0.0]]], requires_grad=True)
    label = torch.tensor([[0]])
    loss = class_sums(logits, label, gamma=0).focal_pos.sum()
    assert loss.item() == torch.inf
    assert class_sums(logits, label, gamma=2).focal_pos.sum().item() == torch.inf
    loss.backward()
    assert logits.grad.flatten().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 2.0, (0.5, 0.0, 2.0)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_gradcheck_in_float64(activation, gamma):
    logits, labels = make_case((2, 3, 4))
    labels[0, 0] = 255
    mask = torch.rand(2, 3, 4, generator=seeded(1)) > 0.2

    def differentiable_sums(values):
        options = {"activation": activation, "gamma": gamma, "ignore_index": 255, "mask": mask}
        return class_sums(values, labels, **options)[:5]

    assert torch.autograd.gradcheck(differentiable_sums, logits)


def test_float64_stays_float64_and_halves_accumulate_in_float32():
    logits, labels = make_case()
    assert {field.dtype for field in class_sums(logits, labels)} == {torch.float64}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        low = logits.detach().to(dtype).requires_grad_()
        sums = class_sums(low, labels)
        assert {field.dtype for field in sums} == {torch.float32}
        sums.focal_pos.sum().backward()
        assert low.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_half_precision_costs_nothing_but_the_rounding_of_its_input(activation, dtype):
    logits, labels = make_case((2, 4, 30, 30))
    rounded = logits.detach().to(dtype)
    low = class_sums(rounded, labels, activation=activation)
    truth = class_sums(rounded.double(), labels, activation=activation)
    for name in ClassSums._fields:
        # float32 sums of 900 terms of order 1
        torch.testing.assert_close(
            getattr(low, name).double(), getattr(truth, name), rtol=2e-6, atol=2e-6, msg=name
        )


def test_more_voxels_than_float16_can_count():
    logits = torch.zeros(1, 2, 70000, dtype=torch.float16, requires_grad=True)
    sums = class_sums(logits, torch.zeros(1, 70000, dtype=torch.uint8))
    assert sums.t.tolist() == [[70000.0, 0.0]]
    assert sums.p.tolist() == [[35000.0, 35000.0]]
    sums.p[:, 0].sum().backward()
    assert logits.grad[0, 0].unique().tolist() == [0.25]


def layouts():
    base = torch.randn(2, 4, 3, 4, 5, generator=seeded(9))
    wide = torch.randn(2, 8, 3, 4, 10, generator=seeded(9))
    return {
        "channels_last_3d": base.to(memory_format=torch.channels_last_3d),
        "strided": wide[:, ::2, :, :, ::2],
        "transposed": base.transpose(2, 4).contiguous().transpose(2, 4),
        "expanded": base[:1].expand(2, -1, -1, -1, -1),
    }


@pytest.mark.parametrize("layout", list(layouts()))
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_memory_layout_changes_nothing(activation, layout):
    logits = layouts()[layout].requires_grad_()
    labels = torch.randint(0, 4, (2, 5, 4, 3), generator=seeded(1)).transpose(1, 3)
    plain = logits.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    ours = class_sums(logits, labels, activation=activation)
    expected = class_sums(plain, labels.contiguous(), activation=activation)
    for name in ClassSums._fields:
        # the same float32 terms, summed in another order
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name), msg=name)
    grads = [torch.autograd.grad(combined(s), z)[0] for s, z in ((ours, logits), (expected, plain))]
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 3, 0), (0, 3), (0, 3, 2, 0)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_zero_size_batch_and_volume(activation, shape):
    logits = torch.zeros(shape, requires_grad=True)
    labels = torch.zeros((shape[0], *shape[2:]), dtype=torch.uint8)
    sums = class_sums(logits, labels, activation=activation, ignore_index=255)
    assert {tuple(field.shape) for field in sums} == {(shape[0], 3)}
    sum(field.sum() for field in sums).backward()
    assert logits.grad.shape == shape


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_voxel_order_does_not_matter(activation):
    logits, labels = make_case((2, 4, 60))
    order = torch.randperm(60, generator=seeded(8))
    straight = class_sums(logits, labels, activation=activation)
    shuffled = class_sums(logits[:, :, order], labels[:, order], activation=activation)
    for name in ClassSums._fields:
        torch.testing.assert_close(
            getattr(shuffled, name), getattr(straight, name), **EXACT, msg=name
        )


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_batch_is_its_samples(activation):
    logits, labels = make_case((4, 3, 5, 5))
    whole = class_sums(logits, labels, activation=activation)
    parts = [
        class_sums(logits[i : i + 1], labels[i : i + 1], activation=activation) for i in range(4)
    ]
    for name in ClassSums._fields:
        assert torch.equal(getattr(whole, name), torch.cat([getattr(p, name) for p in parts]))


def test_the_same_input_gives_the_same_bits():
    logits, labels = make_case((2, 4, 40, 40), dtype=torch.float32)
    first, second = (class_sums(logits, labels, gamma=1.3) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    grads = [torch.autograd.grad(combined(sums), logits)[0] for sums in (first, second)]
    assert torch.equal(*grads)


def test_inputs_are_left_as_they_were():
    logits, labels = make_case()
    labels[0, 0] = 255
    mask = torch.rand(2, 4, 3, 5, generator=seeded(4)) > 0.3
    before = [logits.detach().clone(), labels.clone(), mask.clone()]
    combined(class_sums(logits, labels, ignore_index=255, mask=mask)).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, (logits, labels, mask), strict=True))


def test_counts_are_constants():
    logits, labels = make_case()
    sums = class_sums(logits, labels)
    assert not sums.t.requires_grad
    assert not sums.n_valid.requires_grad
    assert all(field.requires_grad for field in sums[:5])


def test_nothing_but_the_inputs_is_kept_for_backward():
    logits, labels = make_case((1, 4, 50, 50), dtype=torch.float32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        class_sums(logits, labels.to(torch.uint8))
    assert sum(t.nbytes for t in kept) == logits.nbytes + labels.numel()
    storages = {t.untyped_storage().data_ptr() for t in kept}
    assert logits.untyped_storage().data_ptr() in storages


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"  # opcheck's own, from torch 2.14 on
)
@pytest.mark.parametrize("target_kind", ["labels", "regions", "one-hot", "soft"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_opcheck(activation, target_kind):
    logits, labels = make_case((2, 3, 6), dtype=torch.float32)
    mask = torch.rand(2, 3, 6, generator=seeded(4)) > 0.3
    one_hot = F.one_hot(labels, 3).movedim(-1, 1)
    classes, counts, ignored = [0, 1, 2], [1, 1, 1], [255]
    target = labels.to(torch.uint8)
    if target_kind == "regions":
        classes, counts = [1, 2, 2, 1], [2, 1, 1]
    if target_kind in ("one-hot", "soft"):
        target = one_hot.bool() if target_kind == "one-hot" else one_hot * 0.7 + 0.1
        classes, counts, ignored = [], [], []
    gamma = torch.tensor([0.5, 1.0, 2.0])
    tail = (activation, 2.0, 0.1, ignored, classes, counts, False, "minimum", "reference")
    torch.library.opcheck(
        torch.ops.segfocal.class_sums.default, (logits, target, mask, gamma, *tail)
    )
    torch.library.opcheck(
        torch.ops.segfocal.class_sums.default, (logits, target, None, None, *tail)
    )
    upstream = torch.randn(2, 7, 3, generator=seeded(6))
    torch.library.opcheck(
        torch.ops.segfocal.class_sums_backward.default,
        (upstream, logits.detach(), target, mask, gamma, *tail),
    )


@st.composite
def random_cases(draw):
    num_channels = draw(st.integers(1, 5))
    activation = draw(st.sampled_from(["softmax", "sigmoid"])) if num_channels > 1 else "sigmoid"
    spatial = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
    batch = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**16))
    logits = 4 * torch.randn(
        batch, num_channels, *spatial, generator=seeded(seed), dtype=torch.float64
    )
    high = max(num_channels, 2)
    labels = torch.randint(0, high, (batch, *spatial), generator=seeded(seed + 1))
    dtype = draw(st.sampled_from(INTEGER_DTYPES))
    ignored = ()
    if draw(st.booleans()):
        ignored = (draw(st.integers(0, 127)),)
        labels[torch.rand(labels.shape, generator=seeded(seed + 2)) < 0.3] = ignored[0]
    labels = labels.to(dtype)
    if draw(st.booleans()):
        labels = labels.unsqueeze(1)
    mask = None
    if draw(st.booleans()):
        width = draw(st.sampled_from([1, num_channels]))
        mask = torch.rand(batch, width, *spatial, generator=seeded(seed + 3)) > 0.3
    gamma = draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.3]))
    return logits.requires_grad_(), labels, activation, gamma, ignored, mask


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=random_cases())
def test_random_shapes_dtypes_labels_and_masks(naive, case):
    logits, labels, activation, gamma, ignored, mask = case
    assert_matches_naive(
        naive, logits, labels, activation=activation, gamma=gamma, ignored=ignored, mask=mask
    )
