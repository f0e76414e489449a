from collections import Counter

import numpy as np
import pytest
import torch
from monai.transforms.croppad.dictionary import RandCropByLabelClassesd, RandCropByPosNegLabeld
from scipy import ndimage

from segfocal.transforms.crop_centres import components, equally_by_group
from segfocal.transforms.lesion_crop_indices import LesionCropIndicesd


def mass_and_satellite():
    """A mass of 1000 voxels, a satellite of 10, and an ignored slab."""
    label = torch.zeros(1, 24, 24, 24, dtype=torch.uint8)
    label[0, 2:12, 2:12, 2:12] = 1
    label[0, 18, 18, 10:20] = 1
    label[0, 22:] = 255
    return label


def is_satellite(index):
    return index // 576 == 18


def share_of_satellite(crop, data):
    where = torch.arange(24**3).reshape(1, 24, 24, 24)
    patches = crop({**data, "where": where})
    centres = [int(patch["where"]) for patch in patches if int(patch["label"]) == 1]
    return np.mean([is_satellite(centre) for centre in centres])


def test_monais_crops_see_the_satellite_as_often_as_the_mass():
    data = LesionCropIndicesd("label", 2)({"label": mass_and_satellite()})
    common = {"spatial_size": (1, 1, 1), "num_samples": 1000}
    keys = ("label", "where")
    by_class = RandCropByLabelClassesd(
        keys, "label", ratios=[0, 1], num_classes=2, indices_key="label_cls_indices", **common
    )
    by_sign = RandCropByPosNegLabeld(
        keys,
        "label",
        fg_indices_key="label_fg_indices",
        bg_indices_key="label_bg_indices",
        **common,
    )
    for crop in (by_class, by_sign):
        # Five standard deviations of a share over 500 draws are 0.11; by voxel it would be 0.01.
        share = share_of_satellite(crop.set_random_state(0), data)
        assert share == pytest.approx(0.5, abs=0.11)


def test_within_a_lesion_every_voxel_is_as_likely():
    groups = [np.arange(7), np.arange(100, 103), np.arange(1000, 1070)]
    counts = Counter(equally_by_group(groups, 210).tolist())
    assert {counts[v] for v in range(1000, 1070)} == {1}
    assert {counts[v] for v in range(7)} == {10}
    assert {counts[v] for v in range(100, 103)} <= {23, 24}
    assert sum(counts.values()) == 210


def test_many_lesions_have_an_entry_each_even_beyond_the_cap():
    entries = equally_by_group([np.array([i, i + 1000]) for i in range(50)], 20)
    assert len(entries) == 50
    assert {int(entry) % 1000 for entry in entries} == set(range(50))


def test_components_are_scipys():
    mask = np.random.default_rng(0).random((14, 15, 16)) < 0.06
    expected, count = ndimage.label(mask, np.ones((3, 3, 3)))
    inside, numbers = components(mask)
    assert np.array_equal(inside, np.flatnonzero(mask))
    pairs = set(zip(expected.ravel()[inside].tolist(), numbers.tolist(), strict=True))
    assert len(pairs) == count == len(set(numbers.tolist()))


def nested():
    """Oedema round two cores; a second lesion of oedema alone."""
    label = torch.zeros(1, 20, 20, 20, dtype=torch.uint8)
    label[0, 1:9, 1:9, 1:9] = 1
    label[0, 2:4, 2:4, 2:4] = 2
    label[0, 6:8, 6:8, 6:8] = 2
    label[0, 15, 15, 15] = 1
    return label


@pytest.mark.parametrize(("connect", "lesions_of_core"), [("class", 2), ("foreground", 1)])
def test_nested_classes_are_joined_when_asked(connect, lesions_of_core):
    label = nested()
    flat = label.numpy().ravel()
    make = LesionCropIndicesd("label", 3, connect=connect)
    found = make({"label": label})
    core = found["label_cls_indices"][2]
    assert (flat[core] == 2).all()
    assert len(core) == 16 if lesions_of_core == 2 else 16
    oedema = found["label_cls_indices"][1]
    lone = 15 * 400 + 15 * 20 + 15
    assert (oedema == lone).mean() == pytest.approx(0.5, abs=0.01)
    foreground = found["label_fg_indices"]
    parts = {"class": 4, "foreground": 2}[connect]
    assert (foreground == lone).mean() == pytest.approx(1 / parts, abs=0.01)


def test_background_stays_by_voxel_and_leaves_out_ignored_ones():
    label = mass_and_satellite()
    found = LesionCropIndicesd("label", 2)({"label": label})
    assert np.array_equal(found["label_bg_indices"], np.flatnonzero(label.numpy() == 0))
    assert np.array_equal(found["label_cls_indices"][0], found["label_bg_indices"])


def test_a_case_without_lesions_gives_any_voxel_that_is_not_ignored():
    label = torch.zeros(1, 6, 6, 6, dtype=torch.uint8)
    label[:, :3] = 255
    found = LesionCropIndicesd("label", 3)({"label": label})
    for name in ("label_fg_indices", "label_bg_indices"):
        assert np.array_equal(found[name], np.arange(108, 216))
    assert [len(part) for part in found["label_cls_indices"]] == [108, 108, 108]
    skipped = LesionCropIndicesd("label", 3, absent="skip")({"label": label})
    assert [len(part) for part in skipped["label_cls_indices"]] == [108, 0, 0]


def test_a_case_of_ignored_voxels_alone_is_named():
    label = torch.full((1, 4, 4), 255, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^x: every voxel is ignored \(holds 255\)"):
        LesionCropIndicesd("label", 2)({"label": label, "case_id": "x"})


def test_the_same_label_gives_the_same_lists():
    make = LesionCropIndicesd("label", 2, max_samples_per_class=100)
    first, second = (make({"label": mass_and_satellite()})["label_cls_indices"] for _ in range(2))
    assert len(first[1]) == 100
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("connect", ["class", "foreground"])
def test_a_class_number_may_mean_ignored(connect):
    label = np.array([[[1, 1, 0, 2, 0, 1]]])
    make = LesionCropIndicesd("label", 3, connect=connect, ignore_index=2, absent="skip")
    found = make({"label": label})
    lists = [found["label_fg_indices"], *found["label_cls_indices"]]
    assert [sorted(set(part.tolist())) for part in lists] == [[0, 1, 5], [2, 4], [0, 1, 5], []]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"connect": "classes"}, "connect must be one of class, foreground: got 'classes'."),
        ({"absent": "any"}, "absent must be one of anywhere, skip: got 'any'."),
    ],
)
def test_an_unknown_word_is_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        LesionCropIndicesd("label", 3, **options)
