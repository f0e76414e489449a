import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from monai.data.dataset import CacheDataset
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import RandCropByLabelClasses, SpatialCrop
from monai.transforms.intensity.array import ScaleIntensity, ShiftIntensity
from monai.transforms.spatial.array import Affine, Flip
from monai.transforms.spatial.dictionary import RandFlipd
from monai.transforms.transform import RandomizableTrait
from monai.utils.misc import MAX_SEED

from segfocal.config.schema import AugmentConfig
from segfocal.transforms.crop_indices import ClassCropIndicesd
from segfocal.transforms.patch_draw import (
    CHANGE_PROB,
    NOISE_PROB,
    PatchDraw,
    draw_patch,
    draw_start,
)
from segfocal.transforms.rand_patch import RandPatchd, cut_patch

SIZE = (8, 7, 6)
ALL = AugmentConfig(affine_prob=1.0)


def case(shape=(13, 12, 11), channels=2):
    generator = torch.Generator().manual_seed(3)
    label = torch.randint(0, 3, (1, *shape), generator=generator, dtype=torch.uint8)
    image = torch.randn(channels, *shape, generator=generator)
    return ClassCropIndicesd("label", 3)({"image": image, "label": label, "case_id": "c"})


def cutter(augment=None, size=SIZE, ratios=(1, 1, 1)):
    return RandPatchd(
        ("image", "label"),
        size,
        indices_key="label_cls_indices",
        ratios=ratios,
        augment=augment,
        mode=("bilinear", "nearest"),
    )


def monais(volume, draw, size, image):
    """The same changes by MONAI's own transforms."""
    crop = SpatialCrop(roi_start=draw.start, roi_end=np.add(draw.start, size))
    patch = crop(volume)
    if draw.angle or draw.zoom != 1:
        turn = Affine(
            rotate_params=(0.0, 0.0, draw.angle),
            scale_params=(draw.zoom, draw.zoom, 1.0),
            padding_mode="reflection",
            mode="bilinear" if image else "nearest",
            image_only=True,
        )
        patch = turn(patch)
    for axis in draw.flips:
        patch = Flip(axis)(patch)
    if image:
        patch = ScaleIntensity(minv=None, maxv=None, factor=draw.gain - 1)(patch)
        patch = ShiftIntensity(draw.shift)(patch)
    return patch.as_tensor() if isinstance(patch, MetaTensor) else patch


def test_without_settings_a_patch_is_as_it_lies_in_the_volume():
    data, cut = case(), cutter().set_random_state(seed=0)
    for _ in range(40):
        patch = cut(data)
        places = (slice(s, s + size) for s, size in zip(cut.draw.start, SIZE, strict=True))
        where = (slice(None), *places)
        assert torch.equal(patch["image"], data["image"][where])
        assert torch.equal(patch["label"], data["label"][where])


def test_labels_without_an_image_are_cut_alike():
    data = case()
    alone = RandPatchd(
        "label",
        SIZE,
        indices_key="label_cls_indices",
        ratios=(1, 1, 1),
        augment=ALL,
        mode="nearest",
    )
    cut = alone.set_random_state(seed=4)({k: v for k, v in data.items() if k != "image"})
    assert torch.equal(cut["label"], cut_patch(data["label"], alone.draw, SIZE, image=False))


@pytest.mark.parametrize("size", [(8, 7, 6), (13, 12, 11), (5, 9, 1)])
def test_a_patch_is_what_monais_transforms_make_of_the_same_draw(size):
    data = case()
    cut = cutter(ALL.model_copy(update={"noise_std": 0.0}), size).set_random_state(seed=1)
    different = 0
    for _ in range(20):
        patch = cut(data)
        for key in ("image", "label"):
            expected = monais(data[key], cut.draw, size, image=key == "image")
            found = patch[key].float()
            if key == "image":
                assert torch.allclose(found, expected, atol=2e-5)
            else:
                # A coordinate exactly between two voxels may be rounded either way.
                different += int((found != expected).sum())
    assert different <= 2


def test_a_draw_of_a_place_alone_is_a_plain_crop():
    volume = case()["image"]
    patch = cut_patch(volume, PatchDraw((1, 2, 3)), SIZE, image=True)
    assert torch.equal(patch, volume[:, 1:9, 2:9, 3:9])


def test_contrast_brightness_and_noise_come_in_monais_order():
    volume = torch.linspace(-1, 1, 64).reshape(1, 4, 4, 4)
    draw = draw_patch(
        np.random.RandomState(0),
        (4, 4, 4),
        (4, 4, 4),
        [np.array([0])],
        [1],
        AugmentConfig(flip_axes=[], affine_prob=0),
    )
    patch = cut_patch(volume, draw, (4, 4, 4), image=True)
    noise = patch - (volume * draw.gain + draw.shift)
    assert draw.gain != 1
    assert draw.shift != 0
    assert (noise.std() > 0) == (draw.noise_std > 0)


def test_one_channel_of_several_is_blanked_as_often_as_asked_and_each_alike():
    augment = AugmentConfig(channel_drop_prob=0.3)
    cut, data = cutter(augment), case(channels=3)
    data["image"] = data["image"] + 100  # no voxel of it is 0
    blank = []
    for seed in range(2000):
        patch = cut.set_random_state(seed=seed)(data)["image"]
        blank.append([not channel.any() for channel in patch])
        assert [bool(channel.all()) for channel in patch] == [
            not is_blank for is_blank in blank[-1]
        ]
    shares = np.mean(blank, axis=0)
    # Five standard deviations of a share of 0.1 over 2000 draws are 0.034.
    assert shares == pytest.approx([0.1] * 3, abs=0.034)
    assert np.sum(blank, axis=1).max() == 1


def test_the_only_channel_is_never_blanked_and_blanking_changes_no_other_draw():
    always = cutter(AugmentConfig(channel_drop_prob=1.0))
    never = cutter(AugmentConfig())
    for seed in range(50):
        single = case(channels=1)
        assert torch.equal(
            always.set_random_state(seed=seed)(single)["image"],
            never.set_random_state(seed=seed)(single)["image"],
        )
        blanked = always.set_random_state(seed=seed)(case(channels=2))
        whole = never.set_random_state(seed=seed)(case(channels=2))
        kept = 1 - always.draw.dropped
        assert torch.equal(blanked["image"][kept], whole["image"][kept])
        assert torch.equal(blanked["label"], whole["label"])


def test_noise_has_the_drawn_deviation_and_mean_zero():
    from dataclasses import replace

    draw = cutter().set_random_state(seed=0)
    draw.randomize(case())
    noisy = replace(draw.draw, start=(0, 0, 0), noise_std=0.3, noise_seed=5)
    noise = cut_patch(torch.zeros(1, 40, 40, 40), noisy, (40, 40, 40), image=True)
    assert abs(float(noise.mean())) < 0.3 * 5 / 40**1.5
    assert abs(float(noise.std()) - 0.3) < 0.01
    assert cut_patch(torch.zeros(1, 40, 40, 40), noisy, (40, 40, 40), image=False).abs().max() == 0


def test_probabilities_and_ranges_are_monais():
    random, augment = np.random.RandomState(0), AugmentConfig(affine_prob=0.3, flip_axes=[0, 2])
    draws = [draw_patch(random, SIZE, SIZE, [np.array([0])], [1], augment) for _ in range(4000)]

    def share(happened):
        return sum(map(happened, draws)) / len(draws)

    # Five standard deviations of a share over 4000 draws are below 0.04.
    assert share(lambda d: d.angle != 0) == pytest.approx(0.3, abs=0.04)
    assert share(lambda d: 0 in d.flips) == pytest.approx(0.5, abs=0.04)
    assert share(lambda d: 2 in d.flips) == pytest.approx(0.5, abs=0.04)
    assert share(lambda d: 1 in d.flips) == 0
    assert share(lambda d: d.flips == (0, 2)) == pytest.approx(0.25, abs=0.04)
    assert share(lambda d: d.gain != 1) == pytest.approx(CHANGE_PROB, abs=0.04)
    assert share(lambda d: d.shift != 0) == pytest.approx(CHANGE_PROB, abs=0.04)
    assert share(lambda d: d.noise_std > 0) == pytest.approx(NOISE_PROB, abs=0.04)
    for value, limit in (
        (lambda d: d.angle, math.radians(augment.rotate_degrees)),
        (lambda d: d.zoom - 1, augment.scale),
        (lambda d: d.gain - 1, augment.intensity_scale),
        (lambda d: d.shift, augment.intensity_shift),
    ):
        drawn = [value(d) for d in draws]
        assert 0.97 * limit < max(drawn) <= limit
        assert -limit <= min(drawn) < -0.97 * limit
        assert abs(np.mean(drawn)) < 0.05 * limit
    noisy = [d for d in draws if d.noise_std > 0]
    assert max(d.noise_std for d in noisy) <= augment.noise_std
    assert len({d.noise_seed for d in noisy}) == len(noisy)


@pytest.mark.parametrize("size", [(4, 4, 4), (5, 3, 1), (9, 8, 7)])
def test_a_crop_round_any_voxel_lies_where_monais_does(size):
    shape = (9, 8, 7)
    where = torch.arange(9 * 8 * 7).reshape(1, *shape)
    for index in range(0, 9 * 8 * 7, 11):
        theirs = RandCropByLabelClasses(size, ratios=[1], num_classes=1, warn=False)
        expected = theirs(where, where, indices=[np.array([index])])[0]
        start = draw_start(np.random.RandomState(0), shape, size, [np.array([index])], [1])
        box = tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))
        assert torch.equal(where[(slice(None), *box)], expected.as_tensor())


def test_classes_are_centres_as_often_as_their_ratios_and_absent_ones_never():
    data = case()
    lists = [*data["label_cls_indices"][:2], np.empty(0, dtype=np.int64)]
    cut = cutter(size=(1, 1, 1), ratios=(1, 3, 4)).set_random_state(seed=0)
    drawn = Counter(int(cut({**data, "label_cls_indices": lists})["label"]) for _ in range(2000))
    assert set(drawn) == {0, 1}
    assert drawn[1] / 2000 == pytest.approx(0.75, abs=0.05)


class Zero(np.random.RandomState):
    """Draws the least of what there is: 0 is in [0, 1)."""

    def random_sample(self):
        return 0.0


def test_a_probability_of_0_is_never_even_where_0_is_drawn():
    off = AugmentConfig(affine_prob=0, flip_axes=[], channel_drop_prob=0)
    draw = draw_patch(Zero(0), SIZE, SIZE, [np.array([0])], [1], off, num_channels=2)
    assert (draw.angle, draw.zoom, draw.flips, draw.dropped) == (0, 1, (), None)
    # what has a range and a fixed probability does happen
    assert 0 not in (draw.gain - 1, draw.shift, draw.noise_std)


def test_a_class_of_ratio_0_is_no_centre_even_where_0_is_drawn():
    lists = [np.array([0]), np.array([124])]
    assert draw_start(Zero(), (5, 5, 5), (1, 1, 1), lists, [0, 1]) == (4, 4, 4)


def test_a_case_without_the_classes_asked_for_still_gives_a_patch():
    label = torch.zeros(1, 9, 9, 9, dtype=torch.uint8)
    data = ClassCropIndicesd("label", 3, absent="skip")(
        {"image": torch.ones(1, 9, 9, 9), "label": label}
    )
    assert cutter(ratios=(0, 0.5, 0.5))(data)["image"].shape == (1, *SIZE)


def test_a_case_without_a_centre_and_one_that_is_too_small_are_named():
    none = [np.empty(0, dtype=np.int64)] * 3
    with pytest.raises(ValueError, match="no voxel to centre") as error:
        cutter()({**case(), "label_cls_indices": none})
    assert str(error.value) == "c: no voxel to centre a crop on: every list of indices is empty."
    with pytest.raises(ValueError, match="does not fit") as error:
        cutter(size=(8, 13, 8))(case())
    assert str(error.value) == (
        "c: a patch of (8, 13, 8) does not fit into (13, 12, 11). Pad the case, or take a smaller "
        "patch."
    )


@pytest.mark.parametrize("seed", [0, np.int64(7), 2**31, MAX_SEED + 3, -1])
def test_a_seed_gives_monais_numbers(seed):
    cut = cutter().set_random_state(seed=5)
    cut.R.random_sample(3)
    theirs = RandFlipd("image").set_random_state(seed=seed)
    assert cut.set_random_state(seed=seed) is cut
    assert cut.R.random_sample(5).tolist() == theirs.R.random_sample(5).tolist()


def test_seeding_leaves_a_generator_that_was_handed_in_and_other_transforms_alone():
    given, same = np.random.RandomState(3), np.random.RandomState(3)
    cut, other = cutter(), cutter().set_random_state(seed=3)
    cut.set_random_state(state=given)
    assert cut.R is given
    cut.set_random_state(seed=8)
    expected = same.random_sample(5).tolist()
    assert given.random_sample(5).tolist() == expected
    assert other.R.random_sample(5).tolist() == expected


def test_without_a_seed_the_system_chooses():
    cut = cutter().set_random_state(seed=1)
    first = cut.R.random_sample()
    assert cut.set_random_state(seed=1).set_random_state().R.random_sample() != first


def test_the_same_seed_gives_the_same_patch_whatever_was_cut_before():
    cut, data = cutter(ALL), case()
    first = cut.set_random_state(seed=5)(data)
    cut.set_random_state(seed=6)(data)
    again = cut.set_random_state(seed=5)(data)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["label"], again["label"])


@pytest.mark.parametrize("augment", [None, ALL, AugmentConfig(affine_prob=0, flip_axes=[])])
def test_a_patch_shares_no_memory_with_the_case_and_leaves_it_alone(augment):
    # The whole volume as a patch: no slicing, no flip, nothing that copies by accident.
    data = case()
    before = data["image"].clone(), data["label"].clone()
    patch = cutter(augment, size=(13, 12, 11)).set_random_state(seed=2)(data)
    for key in ("image", "label"):
        patch[key].fill_(9)
        assert patch[key].is_contiguous()
    assert torch.equal(data["image"], before[0])
    assert torch.equal(data["label"], before[1])


def test_image_and_label_move_together():
    data = case(channels=1)
    data["image"] = (data["label"] > 0).float()
    quiet = AugmentConfig(
        affine_prob=1, scale=0, rotate_degrees=0, intensity_scale=0, intensity_shift=0, noise_std=0
    )
    cut = cutter(quiet).set_random_state(seed=0)
    for _ in range(20):
        patch = cut(data)
        assert torch.equal(patch["image"], (patch["label"] > 0).float())


def test_a_zoom_is_alike_along_both_axes_and_leaves_slices_apart():
    # Coordinates as intensities: what a voxel shows tells where in the volume it came from.
    size = (9, 9, 3)
    where = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).float()
    still = PatchDraw((0, 0, 0), zoom=0.8)
    moved = cut_patch(where, still, size, image=True) - where
    centred = where - torch.tensor([4.0, 4.0, 1.0]).reshape(3, 1, 1, 1)
    expected = centred * torch.tensor([-0.2, -0.2, 0.0]).reshape(3, 1, 1, 1)
    assert torch.allclose(moved, expected, atol=1e-5)


def test_labels_keep_their_type_and_values_when_turned():
    cut = cutter(ALL).set_random_state(seed=0)
    data = case()
    data["label"][:, :3] = 255
    for _ in range(10):
        label = cut(data)["label"]
        assert label.dtype == torch.uint8
        assert set(label.unique().tolist()) <= {0, 1, 2, 255}


def test_arrays_metatensors_and_two_dimensions_are_taken():
    label = np.zeros((1, 9, 9), dtype=np.uint8)
    data = ClassCropIndicesd("label", 1)({"image": MetaTensor(torch.ones(2, 9, 9)), "label": label})
    patch = cutter(ALL.model_copy(update={"flip_axes": [0, 1]}), size=(4, 5), ratios=[1])(data)
    assert type(patch["image"]) is torch.Tensor
    assert patch["image"].shape == (2, 4, 5)
    assert patch["label"].shape == (1, 4, 5)


def test_it_composes_with_monais_transforms_and_a_cache_does_not_freeze_it():
    assert issubclass(RandPatchd, RandomizableTrait)
    chain = Compose(
        [
            ClassCropIndicesd("label", 3),
            cutter(),
            RandFlipd(("image", "label"), prob=0.5, spatial_axis=0),
        ]
    ).set_random_state(seed=0)
    source = {key: value for key, value in case().items() if key != "label_cls_indices"}
    cached = CacheDataset([source], chain, progress=False)
    patches = [cached[0]["image"] for _ in range(4)]
    assert patches[0].shape == (2, *SIZE)
    assert any(not torch.equal(patches[0], patch) for patch in patches[1:])


def test_a_missing_key_is_passed_over_only_when_allowed():
    data = {key: value for key, value in case().items() if key != "label"}
    with pytest.raises(KeyError, match="label"):
        cutter()(data)
    lenient = RandPatchd(
        ("image", "label"),
        SIZE,
        indices_key="label_cls_indices",
        ratios=[1, 1, 1],
        allow_missing_keys=True,
    )
    assert lenient(data)["image"].shape == (2, *SIZE)
    assert lenient({"case_id": "c"}) == {"case_id": "c"}


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="expected bilinear or nearest, got 'cubic'"):
        RandPatchd("image", SIZE, indices_key="i", ratios=[1], mode="cubic")


@pytest.mark.parametrize(
    ("asked", "got"), [((4, -1, 3), (4, 12, 3)), (-1, (13, 12, 11)), (5, (5, 5, 5))]
)
def test_minus_one_is_a_whole_axis_and_one_number_is_for_all_as_monai_has_it(asked, got):
    data = case()
    theirs = RandCropByLabelClasses(asked, ratios=[1, 1, 1], num_classes=3, warn=False)
    expected = theirs(data["label"], data["label"], indices=data["label_cls_indices"])[0]
    patch = cutter(ALL, size=asked)(data)
    assert patch["label"].shape == expected.shape == (1, *got)
    assert patch["image"].shape == (2, *got)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"size": (4, 0, 3)},
            "spatial_size must be positive, or -1 for a whole axis: got (4, 0, 3).",
        ),
        ({"size": -2}, "spatial_size must be positive, or -1 for a whole axis: got -2."),
        ({"size": ()}, "spatial_size must be positive, or -1 for a whole axis: got ()."),
        (
            {"ratios": (1, -1, 1)},
            "ratios must be finite numbers >= 0, one per class: got (1, -1, 1).",
        ),
        ({"ratios": (math.nan,)}, "ratios must be finite numbers >= 0, one per class: got (nan,)."),
        (
            {"ratios": (1, math.inf, 1)},
            "ratios must be finite numbers >= 0, one per class: got (1, inf, 1).",
        ),
        ({"ratios": ()}, "ratios must be finite numbers >= 0, one per class: got ()."),
    ],
)
def test_sizes_and_ratios_out_of_range_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        cutter(**options)


def plane(**changed):
    """An image and a label of two axes."""
    label = np.zeros((1, 9, 8), dtype=np.uint8)
    lists = ClassCropIndicesd("label", 3)({"label": label})
    return {"image": torch.ones(1, 9, 8), "case_id": "c", **lists, **changed}


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        (
            {"size": (4, 4)},
            case(),
            "c: spatial_size must have one size per axis: expected 3, got (4, 4).",
        ),
        (
            {"size": (4, 4)},
            plane(image=torch.ones(1, 8, 9)),
            (
                "c: image and label must lie on one grid: got (8, 9) and (9, 8). Resample one of "
                "them first."
            ),
        ),
        (
            {"ratios": (1, 1)},
            case(),
            "c: ratios must have one number for each list in label_cls_indices: expected 3, got 2.",
        ),
        (
            {"size": (4, 4), "augment": AugmentConfig()},
            plane(),
            "c: augment.flip_axes names axis 2, but image has 2 spatial axes. Leave it out.",
        ),
        (
            {"size": (4,), "augment": AugmentConfig(flip_axes=[0])},
            {"image": torch.ones(1, 9), "label": torch.ones(1, 9), "case_id": "c"},
            "c: augment turns a plane, but image has one spatial axis. Set affine_prob=0.",
        ),
    ],
)
def test_data_that_do_not_fit_are_named_whatever_is_drawn(options, data, message):
    for seed in range(3):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            cutter(**options).set_random_state(seed=seed)(data)
