"""Coarse targets: what is small stays, what is ignored has no say. The oracle walks the voxels."""

from __future__ import annotations

import math
import re
from itertools import product

import numpy as np
import pytest
import torch

from segfocal.functional.downsample import downsample_target

REGIONS = ((1, 2, 3), (2, 3), (3,))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cells(fine, coarse):
    """The slices of fine voxels behind each coarse voxel."""
    axes = [
        [(math.floor(i * n / m), math.ceil((i + 1) * n / m)) for i in range(m)]
        for n, m in zip(fine, coarse, strict=True)
    ]
    for corner in product(*(range(m) for m in coarse)):
        yield corner, tuple(slice(*axes[axis][i]) for axis, i in enumerate(corner))


def naive_labels(labels, size, ignored, worth, valid=None):
    """Voxel by voxel, for one sample `(*S)`: the label of each cell, None where nothing counts."""
    valid = np.ones(labels.shape, bool) if valid is None else valid
    valid = valid & ~np.isin(labels, ignored)
    counts = {label: int((labels[valid] == label).sum()) for label in range(len(worth))}
    coarse = np.empty(size, object)
    for corner, cell in cells(labels.shape, size):
        found = set(labels[cell][valid[cell]].tolist())
        coarse[corner] = max(
            found, key=lambda label: (worth[label], -counts[label], label), default=None
        )
    return coarse


def sparse_labels(shape, num_classes=4, seed=0, ignore=True):
    """Mostly background, few voxels of each class, some ignored."""
    share = [0.9] + [0.05 / (c * c) for c in range(1, num_classes)] + [0.1 * ignore]
    drawn = torch.multinomial(
        torch.tensor(share), math.prod(shape), replacement=True, generator=seeded(seed)
    )
    return torch.where(drawn == num_classes, 255, drawn).reshape(shape).to(torch.uint8)


@pytest.mark.parametrize("with_channel_axis", [True, False])
@pytest.mark.parametrize(
    ("fine", "sizes"),
    [
        ((12,), [(6,), (5,), (1,)]),
        ((9, 7), [(4, 3), (9, 7), (2, 1)]),
        ((8, 10, 6), [(4, 5, 3), (3, 3, 3), (2, 7, 1)]),
    ],
)
def test_labels_are_those_of_a_walk_over_the_cells(fine, sizes, with_channel_axis):
    labels = sparse_labels((3, *fine), seed=1)
    labels[2] = torch.where(labels[2] == 0, 255, labels[2])
    given = labels[:, None] if with_channel_axis else labels
    coarse = downsample_target(given, sizes, num_channels=4, ignore_index=255)
    assert [level.target.shape for level in coarse] == [
        (*given.shape[: given.ndim - len(fine)], *size) for size in sizes
    ]
    for level, size in zip(coarse, sizes, strict=True):
        assert level.mask is None
        assert level.target.dtype == torch.uint8
        for sample, truth in zip(level.target, labels.numpy(), strict=True):
            expected = naive_labels(truth, size, [255], [0, 1, 1, 1])
            expected[expected == None] = 255  # noqa: E711 - elementwise
            assert np.array_equal(sample.reshape(size).numpy(), expected.astype(np.uint8))


def test_a_lesion_of_one_voxel_survives_three_levels_wherever_it_lies():
    for place in product((0, 3, 7, 14, 15), repeat=3):
        labels = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
        labels[(0, *place)] = 1
        for level in downsample_target(labels, [(8,) * 3, (4,) * 3, (2,) * 3], num_channels=2):
            assert level.target.sum() == 1


def test_a_lesion_of_one_voxel_survives_inside_another_class():
    labels = torch.ones(1, 16, 16, dtype=torch.int64)
    labels[0, 5, 9] = 2
    labels[0, :4] = 0
    (level,) = downsample_target(labels, [(2, 2)], num_channels=3)
    assert level.target.tolist() == [[[1, 2], [1, 1]]]


def test_the_rarer_class_comes_first_then_the_higher_label_in_each_sample():
    labels = torch.tensor([[1, 1, 2, 0, 0, 0], [2, 2, 1, 0, 0, 0], [1, 2, 0, 0, 0, 0]])
    (level,) = downsample_target(labels, [(1,)], num_channels=3)
    assert level.target.tolist() == [[2], [1], [2]]


def test_nested_regions_are_each_the_union_of_their_cell():
    labels = sparse_labels((2, 12, 12, 8), seed=2, ignore=False)
    labels[:, :6, :6] = labels[:, :6, :6].clamp(min=3)  # class 3 is not the rarest
    (level,) = downsample_target(labels, [(3, 4, 2)], num_channels=3, regions=REGIONS)
    for region in REGIONS:
        fine = torch.isin(labels, torch.tensor(region)).float()
        expected = torch.nn.functional.adaptive_max_pool3d(fine, (3, 4, 2)) > 0
        assert torch.equal(torch.isin(level.target, torch.tensor(region)), expected)


def test_a_cell_is_decided_by_its_valid_voxels_alone():
    labels = torch.tensor([[0, 255, 255, 255, 1, 255, 9, 9, 2, 0]])
    (level,) = downsample_target(labels, [(5,)], num_channels=3, ignore_index=(255, 9))
    assert level.target.tolist() == [[0, 255, 1, 9, 2]]
    mask = labels < 9
    (masked,) = downsample_target(labels, [(5,)], num_channels=3, mask=mask[:, None])
    assert masked.mask.tolist() == [[[True, False, True, False, True]]]
    assert masked.target[masked.mask[:, 0]].tolist() == [0, 1, 2]


def test_ignored_and_masked_voxels_together_leave_nothing_valid():
    labels = torch.tensor([[255, 1, 255, 2, 0, 1]])
    mask = torch.tensor([[[True, False, True, True, True, False]]])
    (level,) = downsample_target(labels, [(3,)], num_channels=3, ignore_index=255, mask=mask)
    assert level.mask.tolist() == [[[False, True, True]]]
    assert level.target[0, 1:].tolist() == [2, 0]


def test_masked_labels_are_those_of_a_walk_over_the_cells():
    labels = sparse_labels((2, 9, 8), seed=4)
    mask = torch.rand(2, 1, 9, 8, generator=seeded(5)) > 0.6
    (level,) = downsample_target(labels, [(4, 4)], num_channels=4, ignore_index=255, mask=mask)
    for sample in range(2):
        expected = naive_labels(
            labels[sample].numpy(), (4, 4), [255], [0, 1, 1, 1], mask[sample, 0].numpy()
        )
        counted = expected != None  # noqa: E711 - elementwise
        assert np.array_equal(level.mask[sample, 0].numpy(), counted)
        got = level.target[sample].numpy()[counted]
        assert np.array_equal(got, expected[counted].astype(np.uint8))


def test_a_mask_per_channel_is_pooled_per_channel():
    labels = torch.tensor([[0, 1, 0, 0]])
    mask = torch.tensor([[[True, True, False, False], [False, True, False, False]]])
    (level,) = downsample_target(labels, [(2,)], num_channels=2, mask=mask)
    assert level.mask.tolist() == [[[True, False], [True, False]]]
    assert level.target[0, 0] == 1


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.float64])
def test_one_hot_classes_follow_the_labels(dtype):
    labels = sparse_labels((2, 9, 8, 6), seed=6, ignore=False).long()
    one_hot = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).to(dtype)
    mask = torch.rand(2, 1, 9, 8, 6, generator=seeded(7)) > 0.3
    sizes = [(4, 4, 3), (2, 3, 1)]
    from_labels = downsample_target(labels, sizes, num_channels=4, mask=mask)
    from_channels = downsample_target(one_hot, sizes, num_channels=4, mask=mask, exclusive=True)
    for truth, level in zip(from_labels, from_channels, strict=True):
        assert level.target.dtype == dtype
        assert torch.equal(level.mask, truth.mask)
        shown = level.target.float().argmax(1)
        assert torch.equal(shown[truth.mask[:, 0]], truth.target[truth.mask[:, 0]])
        assert (level.target.float().sum(1) == 1).all()


def test_soft_classes_take_the_voxel_with_most_foreground_and_still_sum_to_one():
    background = torch.tensor([[0.9, 0.6, 1.0, 0.8, 0.3, 0.2]])
    target = torch.stack([background, 1 - background], 1)
    (level,) = downsample_target(target, [(3,)], num_channels=2)
    torch.testing.assert_close(level.target[0, 0], torch.tensor([0.6, 0.8, 0.2]))
    torch.testing.assert_close(level.target.sum(1), torch.ones(1, 3))


def test_overlapping_channels_take_the_largest_value_that_is_valid():
    target = torch.tensor([[[0, 1, 0, 0], [1, 1, 0, 1]]], dtype=torch.bool)
    mask = torch.tensor([[[True, True, True, True], [True, True, True, False]]])
    (level,) = downsample_target(target, [(2,)], num_channels=2, exclusive=False, mask=mask)
    assert level.target.tolist() == [[[True, False], [True, False]]]
    assert level.mask.tolist() == [[[True, True], [True, True]]]
    shares = torch.tensor([[[0.25, 0.75, math.nan, 0.5]]])
    (soft,) = downsample_target(
        shares, [(2,)], num_channels=1, exclusive=False, mask=shares == shares
    )
    assert soft.target.tolist() == [[[0.75, 0.5]]]


@pytest.mark.parametrize(
    "dtype", [torch.bool, torch.int8, torch.uint16, torch.int32, torch.uint32, torch.float32]
)
def test_labels_keep_their_dtype(dtype):
    labels = torch.tensor([[[0, 1, 0, 0]]]).to(dtype)
    (level,) = downsample_target(labels, [(2,)], num_channels=2)
    assert level.target.dtype == dtype
    assert level.target.long().tolist() == [[[1, 0]]]


def test_a_label_that_is_no_class_is_handed_on_for_the_loss_to_refuse():
    labels = torch.tensor([[0, 1, 7, 1, 0, -3]])
    (level,) = downsample_target(labels, [(2,)], num_channels=2)
    assert level.target.tolist() == [[7, -3]]


def test_the_input_is_unchanged_and_an_empty_batch_stays_empty():
    labels = sparse_labels((1, 8, 8))
    kept = labels.clone()
    downsample_target(labels, [(2, 2)], num_channels=4, ignore_index=255)
    assert torch.equal(labels, kept)
    (level,) = downsample_target(labels[:0], [(2, 2)], num_channels=4)
    assert level.target.shape == (0, 2, 2)


def test_it_compiles_in_one_graph():
    labels = sparse_labels((2, 8, 8, 6), seed=8)
    mask = torch.rand(2, 1, 8, 8, 6, generator=seeded(9)) > 0.2

    def run(labels, mask):
        (level,) = downsample_target(
            labels, [(4, 3, 2)], num_channels=4, ignore_index=255, mask=mask
        )
        return level.target, level.mask

    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    for ours, truth in zip(compiled(labels, mask), run(labels, mask), strict=True):
        assert torch.equal(ours, truth)


@pytest.mark.parametrize(
    ("shape", "sizes", "message"),
    [
        (
            (1, 3, 8, 8),
            [(4, 4)],
            (
                "target must hold labels (B, *S) or (B, 1, *S), or 2 channels (B, 2, *S), with one "
                "to three spatial axes: got (1, 3, 8, 8)."
            ),
        ),
        (
            (1, 1, 4, 4, 4, 4),
            [(2, 2, 2, 2)],
            (
                "target must hold labels (B, *S) or (B, 1, *S), or 2 channels (B, 2, *S), with one "
                "to three spatial axes: got (1, 1, 4, 4, 4, 4)."
            ),
        ),
        (
            (1, 8, 8),
            [(4, 4), (16, 4)],
            (
                "a level must not be larger than the target: expected at most (8, 8) voxels, got "
                "(16, 4)."
            ),
        ),
    ],
)
def test_targets_that_do_not_fit_are_refused(shape, sizes, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        downsample_target(torch.zeros(shape, dtype=torch.uint8), sizes, num_channels=2)
