import numpy as np
import pytest
import torch
from monai.data.meta_tensor import MetaTensor
from monai.losses import DiceLoss as MonaiDiceLoss
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import SpatialPadd
from monai.transforms.spatial.dictionary import RandFlipd
from monai.transforms.utility.dictionary import ConvertToMultiChannelBasedOnBratsClassesd

from segfocal import DiceFocalLoss
from segfocal.labels import LabelScheme, Region
from segfocal.transforms.labels_to_regions import LabelsToRegionsd

BRATS = ((1, 2, 4), (1, 4), (4,))


def brats_label(ignored=False):
    values = [0, 1, 2, 4] + ([9] if ignored else [])
    generator = torch.Generator().manual_seed(0)
    picks = torch.randint(0, len(values), (1, 6, 7, 8), generator=generator)
    return torch.tensor(values)[picks]


def test_the_channels_are_monais_in_the_schemes_order():
    label = brats_label()
    ours = LabelsToRegionsd("label", BRATS)({"label": label})["label"]
    tc, wt, et = ConvertToMultiChannelBasedOnBratsClassesd("label")({"label": label})["label"]
    assert torch.equal(ours.bool(), torch.stack([wt, tc, et]))
    assert ours.dtype == torch.float32


def test_ignored_voxels_are_in_no_channel_and_masked_out():
    label = brats_label(ignored=True)
    out = LabelsToRegionsd("label", BRATS, ignore_values=(9,))({"label": label})
    ignored = label[0] == 9
    assert ignored.any()
    assert out["label"][:, ignored].sum() == 0
    assert torch.equal(out["label_valid"], label != 9)
    assert out["label_valid"].dtype == torch.bool


def test_a_value_of_a_region_that_is_ignored_is_in_none():
    label = brats_label()
    out = LabelsToRegionsd("label", BRATS, ignore_values=(1,))({"label": label})
    assert torch.equal(out["label"][0].bool(), (label[0] == 2) | (label[0] == 4))
    assert torch.equal(out["label_valid"], label != 1)


@pytest.mark.parametrize("ignored", [9, 1])
def test_channels_and_mask_give_the_loss_of_the_labels_themselves(ignored):
    label = brats_label(ignored=ignored == 9)
    out = LabelsToRegionsd("label", BRATS, ignore_values=(ignored,))({"label": label})
    logits = torch.randn(1, 3, 6, 7, 8, generator=torch.Generator().manual_seed(1))
    by_channels = DiceFocalLoss(sigmoid=True)(
        logits, out["label"][None], mask=out["label_valid"][None]
    )
    loss = DiceFocalLoss(sigmoid=True, regions=BRATS, ignore_index=ignored)
    by_labels = loss(logits, label[None])
    assert torch.allclose(by_channels, by_labels, atol=1e-6)


def test_a_monai_loss_takes_the_channels():
    out = LabelsToRegionsd("label", BRATS)({"label": brats_label()})
    assert MonaiDiceLoss(sigmoid=True)(torch.zeros(1, 3, 6, 7, 8), out["label"][None]) > 0


def test_a_scheme_gives_its_regions_for_file_values_and_for_class_indices():
    scheme = LabelScheme.preset("brats18-22", ignore_values=(9,))
    label = brats_label(ignored=True)
    encoded = torch.from_numpy(scheme.encode(label.numpy()))
    by_value = LabelsToRegionsd.from_scheme("label", scheme)({"label": label})
    by_index = LabelsToRegionsd.from_scheme("label", scheme, encoded=True)({"label": encoded})
    for key in ("label", "label_valid"):
        assert torch.equal(by_value[key], by_index[key])
    plain = LabelScheme(("background", "a", "b"), (0, 5, 7))
    classes = LabelsToRegionsd.from_scheme("label", plain)({"label": torch.tensor([[0, 5, 7]])})
    assert classes["label"].tolist() == [[0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("value", [3, -1])
def test_a_value_that_nobody_declared_is_named_and_not_made_background(value):
    label = torch.tensor([[0, 1, value]])
    with pytest.raises(ValueError, match="declared are") as error:
        LabelsToRegionsd("label", BRATS)({"label": label, "case_id": "BRATS_012"})
    assert str(error.value) == (
        f"BRATS_012: holds {value}; declared are [0, 1, 2, 4, 255]. Add it to a region, to "
        f"background or to ignore_values."
    )


def test_minus_one_ignored_in_unsigned_labels_is_not_255():
    label = torch.tensor([[0, 255]], dtype=torch.uint8)
    out = LabelsToRegionsd("label", [(255,)], ignore_values=(-1,))({"label": label})
    assert out["label"].tolist() == [[0, 1]]
    assert bool(out["label_valid"].all())


def test_type_affine_and_other_keys_are_kept_and_monai_goes_on_from_there():
    affine = torch.diag(torch.tensor([2.0, 2.0, 3.0, 1.0], dtype=torch.float64))
    label = MetaTensor(brats_label(), affine=affine)
    chain = Compose(
        [
            LabelsToRegionsd("label", BRATS, dtype=torch.uint8),
            SpatialPadd(("label", "label_valid"), (10, 10, 10)),
            RandFlipd(("label", "label_valid"), prob=1.0, spatial_axis=0),
        ]
    )
    out = chain({"label": label, "name": "x"})
    assert isinstance(out["label"], MetaTensor)
    assert out["label"].dtype == torch.uint8
    assert out["label"].shape == (3, 10, 10, 10)
    assert out["label_valid"].sum() == 6 * 7 * 8
    assert out["name"] == "x"
    arrays = LabelsToRegionsd("label", BRATS)({"label": brats_label().numpy()})
    assert isinstance(arrays["label"], np.ndarray)
    assert arrays["label_valid"].dtype == bool
    assert torch.equal(label.as_tensor(), brats_label())


def test_wrong_settings_and_channels_are_refused():
    with pytest.raises(ValueError, match=r"expected the label values of each region, got \[\(\)\]"):
        LabelsToRegionsd("label", [()])
    with pytest.raises(ValueError, match=r"one channel, got shape \(3, 2\)"):
        LabelsToRegionsd("label", BRATS)({"label": torch.zeros(3, 2)})


def test_a_class_of_no_region_is_declared_by_its_scheme_all_the_same():
    scheme = LabelScheme(("background", "a", "b"), (0, 5, 7), (Region("A", (1,), 1),))
    values = torch.tensor([[0, 5, 7]])
    encoded = torch.from_numpy(scheme.encode(values.numpy()))
    for label, is_encoded in ((values, False), (encoded, True)):
        found = LabelsToRegionsd.from_scheme("label", scheme, encoded=is_encoded)({"label": label})
        assert found["label"].tolist() == [[0, 1, 0]]
        assert bool(found["label_valid"].all())
    with pytest.raises(ValueError, match=r"holds 3; declared are \[0, 1, 2, 255\]"):
        LabelsToRegionsd.from_scheme("label", scheme, encoded=True)({"label": encoded + 1})
