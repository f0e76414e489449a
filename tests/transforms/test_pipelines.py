import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor

from segfocal.config.schema import AugmentConfig, DataConfig
from segfocal.data.cases import Case
from segfocal.errors import UserError
from segfocal.labels import IGNORE_CLASS, LabelScheme
from segfocal.transforms.pipelines import (
    CROP_INDICES,
    augmentation,
    crop_preparation,
    crop_ratios,
    normalization_rules,
    preprocessing,
)

SCHEME = LabelScheme(("background", "oedema", "core"), (0, 1, 2))
REGIONS = LabelScheme.preset("msd-task01")


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, [0.4, 0.3, 0.3]),
        ({"core": 3.0}, [0.4, 0.15, 0.45]),
        ({"core": 0.0}, [0.4, 0.6, 0.0]),
    ],
)
def test_the_foreground_share_is_divided_by_the_weights(weights, expected):
    assert crop_ratios(SCHEME, 0.6, weights) == pytest.approx(expected)


def prepared(scheme, by):
    """A mass of 216 voxels, half of each class, and a lone voxel of the second."""
    label = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    label[0, 2:8, 2:8, 2:5], label[0, 2:8, 2:8, 5:8] = 1, 2
    label[0, 12, 12, 12] = 2
    return crop_preparation(scheme, (8, 8, 8), by)(
        {"image": torch.zeros(1, 16, 16, 16), "label": label, "case_id": "x"}
    )


@pytest.mark.parametrize(("by", "share"), [("voxel", 1 / 109), ("lesion", 1 / 2)])
@pytest.mark.parametrize("scheme", [SCHEME, REGIONS], ids=["classes", "regions"])
def test_a_lone_voxel_is_drawn_as_the_setting_says(scheme, by, share):
    indices = prepared(scheme, by)[CROP_INDICES][2]
    lone = 12 * 256 + 12 * 16 + 12
    assert np.mean(indices == lone) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize(("scheme", "share"), [(SCHEME, 1 / 3), (REGIONS, 1 / 2)])
def test_of_regions_what_touches_is_one_lesion_and_of_classes_each_class_is(scheme, share):
    label = torch.zeros(1, 12, 12, 12, dtype=torch.uint8)
    label[0, 1, 1, 1:6] = torch.tensor([2, 1, 1, 1, 2])  # a rim of 1 between two crumbs of 2
    label[0, 9, 9, 9] = 2
    case = {"image": torch.zeros(1, 12, 12, 12), "label": label, "case_id": "x"}
    indices = crop_preparation(scheme, None, "lesion")(case)[CROP_INDICES][2]
    assert np.mean(indices == 9 * 144 + 9 * 12 + 9) == pytest.approx(share)


def test_a_case_smaller_than_the_patch_is_padded_with_nothing_to_learn_from():
    case = {"image": torch.full((1, 4, 6, 3), 7.0), "label": torch.ones(1, 4, 6, 3).byte()}
    case["label"][0, 0] = 0
    case = {key: MetaTensor(values) for key, values in case.items()}
    padded = crop_preparation(SCHEME, (6, 6, 5))({**case, "case_id": "x"})
    assert type(padded["image"]) is type(padded["label"]) is torch.Tensor
    inside = torch.zeros(1, 6, 6, 5, dtype=torch.bool)
    inside[:, 1:5, :, 1:4] = True
    assert torch.equal(padded["image"], torch.where(inside, 7.0, 0.0))
    assert padded["label"].dtype == torch.uint8
    assert torch.equal(padded["label"] != IGNORE_CLASS, inside)
    assert [len(indices) for indices in padded[CROP_INDICES]] == [18, 54, 0]


def test_an_unknown_word_is_refused():
    with pytest.raises(ValueError, match="foreground_by must be one of voxel, lesion: got 'le'"):
        prepared(SCHEME, "le")


def test_the_tools_own_sampler_sees_it_so():
    data = prepared(SCHEME, "lesion")
    where = torch.zeros(1, 16, 16, 16)
    where[0, 12, 12, 12] = 1
    quiet = AugmentConfig(
        affine_prob=0, intensity_scale=0, intensity_shift=0, noise_std=0, flip_axes=[]
    )
    cut = augmentation(quiet, SCHEME, (1, 1, 1), 1.0, {"oedema": 0.0}).set_random_state(seed=0)
    seen = [float(cut({**data, "image": where})["image"]) for _ in range(1000)]
    assert np.mean(seen) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("spacing", [None, (1.3, 0.7, 2.1)])
def test_a_label_comes_to_the_grid_of_its_image_by_the_nearest_voxel(tmp_path, spacing):
    affine = np.diag([-2.0, 1.0, 3.0, 1.0])
    random = np.random.default_rng(0)
    values = random.choice(np.array([0, 5, 9], np.int16), (9, 8, 7))
    paths = [tmp_path / f"{name}.nii.gz" for name in ("image", "label")]
    for path in paths:
        nib.save(nib.Nifti1Image(values, affine), path)
    scheme = LabelScheme(("background", "lesion"), (0, 5), ignore_values=(9,))
    data = DataConfig(root="x", normalize="none", spacing_mm=spacing)
    prepared = preprocessing(data, scheme, ("c",), ("c",))(Case("x", (paths[0],), paths[1]))
    image, label = prepared["image"], prepared["label"]
    assert label.shape == image.shape
    assert label.dtype == torch.uint8
    torch.testing.assert_close(label.affine, image.affine)
    sizes = np.linalg.norm(label.affine[:3, :3].numpy(), axis=0)
    np.testing.assert_allclose(sizes, spacing or (2.0, 1.0, 3.0), rtol=1e-6)
    back = np.linalg.inv(affine) @ label.affine.numpy()
    places = np.indices(label.shape[1:]).reshape(3, -1)
    in_file = back[:3, :3] @ places + back[:3, 3:]
    nearest = np.rint(in_file)
    settled = (np.abs(in_file - nearest) < 0.49).all(0)
    assert settled.mean() > 0.7
    limits = np.array(values.shape)[:, None] - 1
    found = values[tuple(np.clip(nearest, 0, limits).astype(int))]
    expected = np.select([found == 5, found == 9], [1, IGNORE_CLASS], 0)
    assert np.array_equal(label[0].numpy().ravel()[settled], expected[settled])


def test_a_channel_that_is_not_in_the_files_is_told():
    with pytest.raises(UserError) as error:
        preprocessing(DataConfig(root="x"), SCHEME, ("T1", "T2"), ("T2", "FLAIR"))
    assert str(error.value) == ("data.channels: the network expects T2,FLAIR; the data has T1,T2.")


def test_rules_by_channel_come_in_the_order_that_the_network_sees():
    by_channel = {"T2": "none", "T1": (0.0, 500.0)}
    assert normalization_rules(by_channel, ["T1", "T2"]) == [(0.0, 500.0), "none"]
    assert normalization_rules("zscore", ["T1", "T2"]) == ["zscore", "zscore"]
    for channels in (["T1"], ["T1", "T2", "FLAIR"]):
        with pytest.raises(UserError) as error:
            normalization_rules(by_channel, channels)
        assert str(error.value) == (
            f"data.normalize: expected one rule for each channel of {','.join(channels)}, "
            f"got rules for T2,T1."
        )
