from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from segfocal.config.schema import AugmentConfig
from segfocal.labels import IGNORE_CLASS, LabelScheme
from segfocal.training.patches import EpochSampler, PatchDataset, stable_seed
from segfocal.training.ranks import share
from segfocal.transforms.pipelines import augmentation, crop_preparation

SCHEME = LabelScheme(("background", "a", "b"), (0, 1, 2))


def prepared_case(case_id, ignored=False):
    generator = torch.Generator().manual_seed(stable_seed(case_id))
    label = torch.randint(0, 3, (1, 14, 13, 12), generator=generator, dtype=torch.uint8)
    if ignored:
        label[:, :6] = IGNORE_CLASS
    image = torch.randn(2, 14, 13, 12, generator=generator)
    return crop_preparation(SCHEME, (8, 8, 8))({"image": image, "label": label, "case_id": case_id})


@pytest.fixture(scope="module")
def dataset():
    changes = augmentation(AugmentConfig(affine_prob=0.5), SCHEME, (8, 8, 8), 0.67)
    return PatchDataset([prepared_case(f"case{i}") for i in range(3)], changes, seed=7)


def test_a_patch_does_not_depend_on_what_was_cut_before(dataset):
    first = dataset[2, 5, 1]
    for other in range(4):
        dataset[0, other, 0]
    again = dataset[2, 5, 1]
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])


@pytest.mark.parametrize("key", [(3, 5, 1), (2, 6, 1), (2, 5, 2)])
def test_epoch_number_and_case_each_change_the_patch(dataset, key):
    assert not torch.equal(dataset[2, 5, 1]["image"], dataset[key]["image"])


def test_patches_are_plain_tensors_of_the_patch_size(dataset):
    patch = dataset[0, 0, 0]
    assert type(patch["image"]) is torch.Tensor
    assert type(patch["label"]) is torch.Tensor
    assert patch["image"].shape == (2, 8, 8, 8)
    assert patch["label"].shape == (1, 8, 8, 8)
    assert patch["label"].dtype == torch.uint8


def test_cutting_a_patch_leaves_the_case_as_it_was(dataset):
    before = dataset.cases[0]["image"].clone()
    for number in range(10):
        dataset[0, number, 0]
    assert torch.equal(dataset.cases[0]["image"], before)


@pytest.mark.slow
def test_worker_processes_do_not_change_the_patches(dataset):
    def batches(workers):
        sampler = EpochSampler(3, 6, seed=1)
        sampler.epoch = 4
        loader = DataLoader(dataset, batch_size=2, sampler=sampler, num_workers=workers)
        return [batch["image"] for batch in loader]

    for alone, together in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone, together)


def test_image_and_label_are_moved_together():
    # Image = label value, so any geometric change must keep them equal voxel by voxel.
    label = torch.randint(0, 3, (1, 16, 16, 16), dtype=torch.uint8)
    case = {"image": label.float().clone(), "label": label, "case_id": "x"}
    quiet = AugmentConfig(affine_prob=0, intensity_scale=0, intensity_shift=0, noise_std=0)
    changes = augmentation(quiet, SCHEME, (8, 8, 8), 0.5)
    dataset = PatchDataset([crop_preparation(SCHEME, (8, 8, 8))(case)], changes, seed=0)
    for number in range(8):
        patch = dataset[0, number, 0]
        assert torch.equal(patch["image"], patch["label"].float())


def test_a_case_smaller_than_the_patch_is_padded_with_ignored_voxels():
    label = torch.ones(1, 4, 8, 8, dtype=torch.uint8)
    case = {"image": torch.ones(1, 4, 8, 8), "label": label, "case_id": "x"}
    ready = crop_preparation(SCHEME, (8, 8, 8))(case)
    assert ready["label"].shape == (1, 8, 8, 8)
    assert (ready["label"] == IGNORE_CLASS).sum() == 4 * 64
    assert sum(len(part) for part in ready["label_cls_indices"]) == 4 * 64


def test_every_case_is_drawn_equally_often_over_the_epochs():
    sampler = EpochSampler(5, 8, seed=0)
    drawn = Counter()
    for epoch in range(5):
        sampler.epoch = epoch
        drawn.update(case for _, _, case in sampler)
    assert set(drawn.values()) == {8}


def test_an_epochs_order_is_its_own_and_repeatable():
    sampler = EpochSampler(10, 10, seed=0)
    orders = []
    for epoch in (0, 1, 0):
        sampler.epoch = epoch
        orders.append([case for _, _, case in sampler])
    assert orders[0] == orders[2]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == list(range(10))


def test_a_seed_is_the_same_in_every_process_and_version():
    assert stable_seed(0, "round", 3) == 3343011836
    assert len({stable_seed(1, i) for i in range(1000)}) == 1000
    assert np.random.default_rng(stable_seed("x")).random() < 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranks_draw_the_patches_of_one_process_in_its_batches(count):
    whole = EpochSampler(4, 20, seed=1)
    whole.epoch = 3
    keys = list(whole)
    batches = [keys[start : start + 5] for start in range(0, 20, 5)]
    parts = []
    for rank in range(count):
        part = EpochSampler(4, 20, seed=1, batch_size=5, rows=share(5, rank, count))
        part.epoch = 3
        drawn = list(part)
        assert len(drawn) == len(part)
        size = len(part.rows)
        parts.append([drawn[start : start + size] for start in range(0, len(drawn), size)])
    for number, batch in enumerate(batches):
        assert [key for part in parts for key in part[number]] == batch


@pytest.mark.parametrize("num_patches", [1, 4, 5, 7, 13])
def test_of_a_last_batch_that_is_not_full_each_rank_draws_its_rows(num_patches):
    """And says how many those are, which a loader goes by."""
    whole = EpochSampler(4, num_patches, seed=1, batch_size=5)
    parts = [
        EpochSampler(4, num_patches, seed=1, batch_size=5, rows=share(5, rank, 2))
        for rank in range(2)
    ]
    assert sorted(key for part in parts for key in part) == list(whole)
    assert [key[:2] for key in whole] == [(0, number) for number in range(num_patches)]
    assert [len(part) for part in (whole, *parts)] == [
        num_patches, *(len(list(part)) for part in parts)
    ]  # fmt: skip
