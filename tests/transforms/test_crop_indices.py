import numpy as np
import torch
from monai.transforms.croppad.dictionary import RandCropByLabelClassesd

from segfocal.labels import IGNORE_CLASS
from segfocal.transforms.crop_indices import ClassCropIndicesd


def label_with_ignored_half():
    label = torch.full((1, 12, 12, 12), IGNORE_CLASS, dtype=torch.uint8)
    label[:, 6:] = 0
    label[:, 8, 8, 8] = 2
    return label


def test_each_class_lists_its_voxels_and_ignored_ones_are_in_no_list():
    label = label_with_ignored_half()
    indices = ClassCropIndicesd("label", 3)({"label": label})["label_cls_indices"]
    flat = label.numpy().ravel()
    assert [len(part) for part in indices] == [6 * 144 - 1, 0, 1]
    assert all((flat[part] == c).all() for c, part in enumerate(indices))


def test_a_cap_keeps_a_subset_and_the_same_one_each_time():
    label = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
    make = ClassCropIndicesd("label", 2, max_samples_per_class=100)
    first, second = (make({"label": label})["label_cls_indices"][0] for _ in range(2))
    assert len(np.unique(first)) == 100
    assert np.array_equal(first, second)


def test_monais_crop_is_never_centred_on_an_ignored_voxel():
    label = label_with_ignored_half()
    data = ClassCropIndicesd("label", 3)({"label": label})
    where = torch.arange(12**3).reshape(1, 12, 12, 12)
    crop = RandCropByLabelClassesd(
        ["label", "where"],
        "label",
        (1, 1, 1),
        ratios=[1, 1, 1],
        num_classes=3,
        num_samples=200,
        indices_key="label_cls_indices",
        warn=False,
    ).set_random_state(0)
    patches = crop({**data, "where": where})
    values = [int(patch["label"]) for patch in patches]
    assert IGNORE_CLASS not in values
    assert {0, 2} == set(values)
    assert 60 < values.count(2) < 140
