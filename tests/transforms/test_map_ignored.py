import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.spatial.dictionary import Rotate90d

from segfocal.transforms.map_ignored import MapIgnoredd


def test_several_values_become_one_and_the_rest_stays():
    label = torch.randint(-2, 8, (1, 5, 6, 7), generator=torch.Generator().manual_seed(0))
    out = MapIgnoredd("label", (-2, -1, 7), ignore_index=-100)({"label": label})["label"]
    ignored = np.isin(label.numpy(), [-2, -1, 7])
    assert np.array_equal(out.numpy(), np.where(ignored, -100, label.numpy()))
    logits = torch.randn(1, 7, 5, 6, 7)
    assert torch.isfinite(F.cross_entropy(logits, out))


def test_nan_is_a_value_too():
    label = torch.tensor([[0.0, float("nan"), 2.0]])
    out = MapIgnoredd("label", (float("nan"),))({"label": label})["label"]
    assert out.tolist() == [[0.0, 255.0, 2.0]]


def test_minus_one_in_unsigned_labels_is_not_255():
    label = torch.tensor([[0, 255]], dtype=torch.uint8)
    out = MapIgnoredd("label", (-1, 255), ignore_index=9)({"label": label})["label"]
    assert out.tolist() == [[0, 9]]
    none = MapIgnoredd("label", (-1,), ignore_index=9)({"label": label})["label"]
    assert none.tolist() == [[0, 255]]


def test_type_and_metadata_are_kept_and_the_input_is_not_changed():
    label = MetaTensor(torch.tensor([[[[1, 9]]]], dtype=torch.int16), meta={"note": "x"})
    chain = Compose([MapIgnoredd("label", (9,)), Rotate90d("label")])
    out = chain({"label": label})["label"]
    assert isinstance(out, MetaTensor)
    assert out.dtype == torch.int16
    assert out.meta["note"] == "x"
    assert label.flatten().tolist() == [1, 9]
    array = np.array([[3, 4]], dtype=np.int32)
    mapped = MapIgnoredd("label", (4,))({"label": array})["label"]
    assert isinstance(mapped, np.ndarray)
    assert mapped.dtype == np.int32


def test_an_index_that_the_type_cannot_hold_is_refused():
    label = torch.zeros(1, 2, dtype=torch.int8)
    with pytest.raises(ValueError, match="cannot hold") as error:
        MapIgnoredd("label", (1,))({"label": label, "case_id": "a"})
    assert str(error.value) == (
        "a: torch.int8 cannot hold ignore_index 255. Cast the label first, or take one from -128 "
        "to 127."
    )


def test_a_boolean_label_cannot_hold_what_means_ignored():
    label = torch.zeros(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="cannot hold") as error:
        MapIgnoredd("label", (255,))({"label": label, "case_id": "a"})
    assert str(error.value) == (
        "a: torch.bool cannot hold ignore_index 255. Cast the label first, or take one from 0 to 1."
    )


def test_a_class_that_would_be_lost_is_named():
    with pytest.raises(ValueError, match="not one of") as error:
        MapIgnoredd("label", (9,), ignore_index=2)({"label": torch.tensor([[0, 2, 9]])})
    assert str(error.value) == (
        "label: holds 2, which is ignore_index but not one of ignore_values [9]. Add it there if "
        "it means ignored, or choose another ignore_index."
    )


def test_no_value_at_all_is_refused():
    with pytest.raises(ValueError, match="at least one value"):
        MapIgnoredd("label", ())
