import numpy as np
import pytest
import torch
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandCropByPosNegLabeld

from segfocal.transforms.foreground_crop_indices import ForegroundCropIndicesd


def label(fill=0):
    volume = torch.full((1, 8, 8, 8), fill, dtype=torch.int16)
    volume[:, :4] = -1
    return volume


def crop(pos=1.0, neg=1.0):
    return RandCropByPosNegLabeld(
        "label",
        "label",
        (1, 1, 1),
        pos=pos,
        neg=neg,
        num_samples=100,
        fg_indices_key="label_fg_indices",
        bg_indices_key="label_bg_indices",
    ).set_random_state(0)


def values(source, pos=1.0, neg=1.0, **settings):
    chain = Compose([ForegroundCropIndicesd("label", ignore_index=-1, **settings), crop(pos, neg)])
    return [int(patch["label"]) for patch in chain({"label": source})]


def test_monais_crop_takes_foreground_and_background_and_no_ignored_voxel():
    source = label()
    source[0, 6, 6, 6] = 2
    found = values(source)
    assert set(found) == {0, 2}
    assert 35 < found.count(2) < 65


def test_foreground_may_be_some_of_the_classes():
    source = label()
    source[0, 6], source[0, 7] = 1, 2
    assert set(values(source, neg=0.0, foreground=(2,))) == {2}
    assert set(values(source, pos=0.0, foreground=(2,))) == {0, 1}


@pytest.mark.parametrize("fill", [0, 3])
@pytest.mark.parametrize(("pos", "neg"), [(1, 1), (1, 0), (0, 1)])
def test_a_case_with_one_side_alone_gives_crops_without_a_warning(fill, pos, neg):
    # Warnings are errors in this suite; MONAI warns when a side is empty.
    assert set(values(label(fill), pos, neg)) == {fill}


def test_an_empty_side_is_empty_when_asked_for():
    out = ForegroundCropIndicesd("label", ignore_index=-1, absent="skip")({"label": label()})
    assert out["label_fg_indices"].size == 0
    assert out["label_bg_indices"].size == 4 * 64


def test_a_case_of_ignored_voxels_alone_is_named():
    with pytest.raises(ValueError, match="every voxel is ignored") as error:
        ForegroundCropIndicesd("label")({"label": np.full((1, 3, 3), 255), "case_id": "x7"})
    assert str(error.value) == (
        "x7: every voxel is ignored (holds 255), so no crop can be centred in it. Take the case "
        "out, or check ignore_index."
    )


def test_a_cap_keeps_so_many_and_the_same_ones_each_time():
    make = ForegroundCropIndicesd("label", ignore_index=-1, max_samples=20)
    first, second = (make({"label": label()})["label_bg_indices"] for _ in range(2))
    assert len(np.unique(first)) == 20
    assert np.array_equal(first, second)


def test_an_unknown_word_is_refused():
    with pytest.raises(ValueError, match=r"^absent must be one of anywhere, skip: got 'any'\.$"):
        ForegroundCropIndicesd("label", absent="any")
