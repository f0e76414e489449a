import warnings

import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByLabelClassesd
from monai.transforms.spatial.dictionary import Spacingd
from monai.transforms.utility.dictionary import Identityd

from segfocal.labels import IGNORE_CLASS
from segfocal.transforms import (
    ClassCropIndicesd,
    ForegroundCropIndicesd,
    LesionCropIndicesd,
)


def label_with_ignored_half():
    label = torch.full((1, 12, 12, 12), IGNORE_CLASS, dtype=torch.uint8)
    label[:, 6:] = 0
    label[:, 8, 8, 8] = 2
    return label


def test_each_class_lists_its_voxels_and_ignored_ones_are_in_no_list():
    label = label_with_ignored_half()
    make = ClassCropIndicesd("label", 3, absent="skip")
    indices = make({"label": label})["label_cls_indices"]
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
    data = ClassCropIndicesd("label", 3, absent="skip")({"label": label})
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


def monais_crop(ratios, num_samples=50):
    return RandCropByLabelClassesd(
        "label",
        "label",
        (1, 1, 1),
        ratios=list(ratios),
        num_classes=3,
        num_samples=num_samples,
        indices_key="label_cls_indices",
        warn=False,
    ).set_random_state(0)


@pytest.mark.parametrize("ratios", [(1, 1, 1), (0, 1, 1), (0, 0, 1)])
def test_a_case_without_lesions_gives_crops_off_the_ignored_voxels_whatever_the_ratios(ratios):
    label = label_with_ignored_half()
    label[label == 2] = 0
    patches = Compose([ClassCropIndicesd("label", 3), monais_crop(ratios)])({"label": label})
    assert {int(patch["label"]) for patch in patches} == {0}


def test_skipping_absent_classes_leaves_their_share_to_the_others():
    data = ClassCropIndicesd("label", 3, absent="skip")({"label": label_with_ignored_half()})
    values = [int(patch["label"]) for patch in monais_crop((0, 1, 1))(data)]
    assert set(values) == {2}


@pytest.mark.parametrize("absent", ["anywhere", "skip"])
def test_a_case_of_ignored_voxels_alone_is_named(absent):
    label = torch.full((1, 4, 4, 4), IGNORE_CLASS, dtype=torch.uint8)
    make = ClassCropIndicesd("label", 3, absent=absent)
    with pytest.raises(ValueError, match="every voxel is ignored") as error:
        make({"label": label, "case_id": "BRATS_007"})
    assert str(error.value) == (
        "BRATS_007: every voxel is ignored (holds 255), so no crop can be centred in it. Take the "
        "case out, or check ignore_index."
    )
    named = MetaTensor(label, meta={"filename_or_obj": "labelsTr/BRATS_007.nii.gz"})
    with pytest.raises(ValueError, match=r"^labelsTr/BRATS_007\.nii\.gz: every voxel"):
        make({"label": named})


@pytest.mark.parametrize(
    ("value", "dtype"), [(3, torch.uint8), (-2, torch.int16), (7, torch.float32)]
)
def test_a_value_that_is_no_class_is_named(value, dtype):
    label = torch.zeros(1, 4, 4, 4, dtype=dtype)
    label[0, 1, 1, 1] = value
    with pytest.raises(ValueError, match="expected class indices") as error:
        ClassCropIndicesd("label", 3)({"label": label})
    assert str(error.value) == (
        f"label: holds {value:g}, expected class indices 0 to 2, and ignore_index where ignored. "
        f"Encode the label first, or set num_classes."
    )


def test_another_ignore_index_and_several_keys_are_honoured():
    label = torch.tensor([[[[-1, 0, 1]]]])
    data = ClassCropIndicesd(["a", "b"], 2, ignore_index=-1, allow_missing_keys=True)({"a": label})
    assert [part.tolist() for part in data["a_cls_indices"]] == [[1], [2]]
    assert "b_cls_indices" not in data


@pytest.mark.parametrize(
    ("ignored", "values", "known"),
    [
        ((255, -1), [255, 0, -1, 1, 2, 1], {1, 3, 4, 5}),
        ([2], [0, 0, 1, 1, 2, 1], {0, 1, 2, 3, 5}),
        (None, [0, 0, 1, 1, 2, 1], {0, 1, 2, 3, 4, 5}),
    ],
)
def test_several_values_or_none_may_mean_ignored(ignored, values, known):
    """All three transforms leave out the same voxels."""
    label = torch.tensor([[[values]]])
    for make in (
        ClassCropIndicesd("label", 3, ignore_index=ignored),
        LesionCropIndicesd("label", 3, ignore_index=ignored),
        LesionCropIndicesd("label", 3, ignore_index=ignored, connect="foreground"),
        ForegroundCropIndicesd("label", ignore_index=ignored),
    ):
        found = make({"label": label})
        lists = [found[key] for key in found if key.endswith(("_fg_indices", "_bg_indices"))]
        lists += found.get("label_cls_indices", [])
        assert {int(index) for indices in lists for index in indices} == known


def test_values_that_all_mean_ignored_are_named():
    label = torch.tensor([[[[255, -1, 255]]]])
    with pytest.raises(ValueError, match=r"every voxel is ignored \(holds 255 or -1\)"):
        ForegroundCropIndicesd("label", ignore_index=(255, -1))({"label": label})


@pytest.mark.parametrize(
    "transform",
    [
        ClassCropIndicesd("label", 2),
        ForegroundCropIndicesd("label"),
        LesionCropIndicesd("label", 2),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_a_label_with_channels_is_refused_by_the_name_of_its_case(transform):
    case = {"label": torch.zeros(3, 4, 4), "case_id": "c7"}
    said = r"^c7: expected a label \(1, \*S\) of class indices, got shape \(3, 4, 4\)\.$"
    with pytest.raises(ValueError, match=said):
        transform(case)


def test_a_label_that_a_lazy_compose_interpolates_is_refused_with_the_cure():
    """MONAI 1.6.1 forgets mode nearest where it is lazy: between 0 and 2 there is 1."""
    label = torch.zeros(1, 20, 24, 18)
    label[:, 3:7, 4:9, 5:9] = 1
    label[:, 12:15, 15:20, 9:12] = 2
    case = {"label": MetaTensor(label, affine=torch.eye(4)), "case_id": "c7"}
    steps = [Spacingd("label", pixdim=(1.3, 1, 1), mode="nearest"), Identityd("label")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lazily = Compose(steps, lazy=True)(case)
        cured = Compose(steps, lazy=True, overrides={"label": {"mode": "nearest"}})(case)
        eagerly = Compose(steps)(case)
    assert ((lazily["label"] > 0.1) & (lazily["label"] < 0.9)).any()
    said = (
        r"^c7: expected whole numbers, got \S+: the label was interpolated\. Resample it with mode "
        r"nearest, which a lazy Compose of MONAI forgets unless it has "
        r'overrides={"label": {"mode": "nearest"}}\.$'
    )
    with pytest.raises(ValueError, match=said):
        ForegroundCropIndicesd("label")(lazily)
    found = ForegroundCropIndicesd("label")(cured)
    assert len(found["label_fg_indices"]) == (eagerly["label"] > 0).sum()


@pytest.mark.parametrize(("limit", "expected"), [(24, np.int32), (23, np.int64)])
def test_indices_are_as_small_as_the_volume_allows(monkeypatch, limit, expected):
    monkeypatch.setattr(np, "iinfo", lambda _dtype: type("Limits", (), {"max": limit, "min": 0}))
    label = np.zeros((1, 2, 3, 4), dtype=np.uint8)
    label[0, 0, 0, 0] = 1
    found = ClassCropIndicesd("label", 3)({"label": label})["label_cls_indices"]
    assert [indices.dtype for indices in found] == [expected] * 3
    assert found[1].tolist() == [0]
    assert found[2].tolist() == list(range(24))


@pytest.mark.parametrize("ignored", [0, 1, 2])
def test_a_class_number_may_mean_ignored(ignored):
    label = np.array([[[0, 0, 1, 2]]])
    make = ClassCropIndicesd("label", 3, ignore_index=ignored, absent="skip")
    lists = make({"label": label})["label_cls_indices"]
    expected = [[0, 1], [2], [3]]
    expected[ignored] = []
    assert [indices.tolist() for indices in lists] == expected
    filled = ClassCropIndicesd("label", 3, ignore_index=ignored)({"label": label})
    anywhere = [index for indices in expected for index in indices]
    assert filled["label_cls_indices"][ignored].tolist() == anywhere


def test_a_case_of_ignored_background_alone_is_refused():
    with pytest.raises(ValueError, match=r"^label: every voxel is ignored \(holds 0\)"):
        ClassCropIndicesd("label", 3, ignore_index=0)({"label": np.zeros((1, 2, 2))})


def test_an_unknown_word_is_refused():
    with pytest.raises(ValueError, match=r"^absent must be one of anywhere, skip: got 'any'\.$"):
        ClassCropIndicesd("label", 3, absent="any")
