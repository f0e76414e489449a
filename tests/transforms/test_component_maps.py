"""The maps of a case's lesions: scipy is what they are made with, so the oracles are hand-made."""

from __future__ import annotations

import re
from collections import deque
from itertools import product

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, MetaTensor
from monai.transforms import (
    Compose,
    RandFlipd,
    RandSpatialCropd,
    Spacingd,
    allow_missing_keys_mode,
)

from segfocal.losses import BlobLoss, ConnectedComponentLoss, DiceFocalLoss
from segfocal.transforms.component_maps import LesionMapsd

REGIONS = ((1, 2), (2,))


def flooded(mask, connectivity):
    """Components by flooding from each voxel in turn, numbered by their first voxel."""
    numbers, count = np.zeros(mask.shape, int), 0
    steps = [
        s for s in product((-1, 0, 1), repeat=mask.ndim) if 0 < np.abs(s).sum() <= connectivity
    ]
    for start in zip(*np.nonzero(mask), strict=True):
        if numbers[start]:
            continue
        count += 1
        numbers[start], queue = count, deque([start])
        while queue:
            at = queue.popleft()
            for step in steps:
                to = tuple(np.add(at, step))
                inside = all(0 <= i < n for i, n in zip(to, mask.shape, strict=True))
                if inside and mask[to] and not numbers[to]:
                    numbers[to] = count
                    queue.append(to)
    return numbers


def sparse_label(shape=(9, 8, 7), seed=0):
    drawn = torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed))
    label = torch.where(drawn > 0.9, 1, 0) + torch.where(drawn > 0.95, 1, 0)
    return torch.where(drawn < 0.1, 255, label).to(torch.uint8)


@pytest.mark.parametrize("connectivity", [None, 1, 2, 3])
def test_components_are_those_of_a_flood(connectivity):
    label = sparse_label()
    out = LesionMapsd("label", ignore_index=255, connectivity=connectivity, voronoi=False)(
        {"label": label}
    )
    expected = flooded(np.isin(label[0], (1, 2)), connectivity or 3)
    assert expected.max() > 5
    assert np.array_equal(out["label_components"][0], expected)
    assert out["label_components"].dtype == torch.int32
    assert set(out) == {"label", "label_components"}


def test_voronoi_regions_are_those_of_the_nearest_lesion_in_mm():
    label, spacing_mm = sparse_label(), np.array([1.0, 0.5, 3.0])
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3] = affine[[1, 0, 2], :][:, [0, 1, 2, 3]]  # axes swapped: spacing is a column's length
    out = LesionMapsd("label", ignore_index=255)({"label": MetaTensor(label, affine=affine)})
    components, nearest = (out[f"label_{name}"][0].numpy() for name in ("components", "voronoi"))
    lesion_voxels = np.argwhere(components)
    for voxel in np.ndindex(nearest.shape):
        if label[(0, *voxel)] == 255:
            assert nearest[voxel] == 0
            continue
        distance = np.linalg.norm((lesion_voxels - voxel) * spacing_mm, axis=1)
        closest = lesion_voxels[np.isclose(distance, distance.min())]
        assert nearest[voxel] in {components[tuple(at)] for at in closest}
    assert np.array_equal(nearest[components > 0], components[components > 0])


def farther_than_needed(maps):
    """Share of the voxels that are nearer, by the affine, to another lesion than to theirs."""
    components, nearest = (maps[f"label_{name}"][0].numpy() for name in ("components", "voronoi"))
    edges = maps["label_voronoi"].affine[:3, :3].numpy()
    lesion_voxels = np.argwhere(components)
    whose, wrong = components[tuple(lesion_voxels.T)], 0
    for voxel in np.ndindex(nearest.shape):
        distance = np.linalg.norm((lesion_voxels - voxel) @ edges.T, axis=1)
        wrong += distance[whose == nearest[voxel]].min() > distance.min() * (1 + 1e-6)
    return wrong / nearest.size


def test_under_a_shear_the_nearest_lesion_wants_straight_axes_first():
    """As the docstring says: a gantry tilted by 22 degrees, and the cure."""
    label = torch.zeros(1, 12, 11, 10, dtype=torch.uint8)
    for at in ((2, 2, 2), (9, 8, 3), (4, 7, 8)):
        label[(0, *at)] = 1
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[1, 2] = 0.8
    tilted = {"label": MetaTensor(label, affine=affine)}
    maps = LesionMapsd("label")
    assert farther_than_needed(maps(tilted)) > 0.02
    straight = Spacingd("label", pixdim=(1.0, 1.0, 2.0), mode="nearest")(tilted)
    assert straight["label"].sum() >= 3
    assert farther_than_needed(maps(straight)) == 0


def test_given_spacing_wins_over_the_affine():
    label = torch.zeros(1, 5, 5, dtype=torch.uint8)
    label[0, 0, 2], label[0, 2, 0] = 1, 1
    data = {"label": MetaTensor(label)}
    wide, tall = (
        LesionMapsd("label", spacing_mm=spacing)(data)["label_voronoi"][0, 2, 2]
        for spacing in ((1, 3), (3, 1))
    )
    assert (wide, tall) == (1, 2)


@pytest.mark.parametrize(
    ("options", "tables"),
    [
        ({}, [(1, 2)]),
        ({"num_classes": 3}, [(), (1,), (2,)]),
        ({"regions": REGIONS}, REGIONS),
    ],
)
def test_there_is_a_map_per_class_or_region_or_one_of_the_foreground(options, tables):
    label = sparse_label()
    transform = LesionMapsd("label", ignore_index=255, spacing_mm=(1, 1, 1), **options)
    out = transform({"label": label})
    assert out["label_components"].shape == (len(tables), 9, 8, 7)
    for numbers, nearest, classes in zip(
        out["label_components"], out["label_voronoi"], tables, strict=True
    ):
        assert np.array_equal(numbers, flooded(np.isin(label[0], classes), 3))
        assert (nearest > 0).any() == bool(classes)


def test_several_channels_have_a_map_each():
    label = sparse_label()
    channels = torch.cat([torch.isin(label, torch.tensor(r)) for r in REGIONS]).float()
    options = {"spacing_mm": (1, 1, 1)}
    from_channels = LesionMapsd("label", **options)({"label": channels})
    from_labels = LesionMapsd("label", regions=REGIONS, **options)({"label": label})
    for name in ("label_components", "label_voronoi"):
        assert torch.equal(from_channels[name], from_labels[name])
    without = LesionMapsd("label", include_background=False, **options)({"label": channels})
    assert (without["label_components"][0] == 0).all()
    assert torch.equal(without["label_components"][1], from_labels["label_components"][1])


def test_an_ignored_voxel_neither_makes_nor_joins_a_lesion():
    label = torch.tensor([[[1, 255, 2, 0, 9, 9]]])
    out = LesionMapsd("label", ignore_index=(255, 9), spacing_mm=(1, 1))({"label": label})
    assert out["label_components"].tolist() == [[[1, 0, 2, 0, 0, 0]]]
    assert out["label_voronoi"].tolist() == [[[1, 0, 2, 2, 0, 0]]]


def test_without_a_lesion_both_maps_are_empty():
    out = LesionMapsd("label", spacing_mm=(1, 1))({"label": torch.zeros(1, 4, 4)})
    assert not out["label_components"].any()
    assert not out["label_voronoi"].any()


def test_monai_s_contracts_are_kept():
    label = MetaTensor(sparse_label(), affine=np.diag([1.0, 2.0, 3.0, 1.0]), meta={"case": "a"})
    data = {"label": label, "image": torch.zeros(1)}
    kept = label.clone()
    transform = LesionMapsd(["label", "other"], ignore_index=255, allow_missing_keys=True)
    out, again = transform(data), transform(data)
    assert set(data) == {"label", "image"}
    assert torch.equal(label, kept)
    for name in ("label_components", "label_voronoi"):
        assert isinstance(out[name], MetaTensor)
        assert torch.equal(out[name].affine, label.affine)
        assert out[name].meta["case"] == "a"
        assert torch.equal(out[name], again[name])
        out[name].meta["case"] = "b"
    assert label.meta["case"] == "a"
    with pytest.raises(KeyError, match="other"):
        LesionMapsd(["label", "other"])(data)


def test_numpy_labels_stay_numpy():
    out = LesionMapsd("label", voronoi=False)({"label": sparse_label().numpy()})
    assert isinstance(out["label_components"], np.ndarray)
    assert out["label_components"].dtype == np.int32


def test_a_cache_a_crop_and_a_flip_take_the_maps_along_to_the_losses():
    maps = ("label_components", "label_voronoi")
    keys = ("label", *maps)
    label = MetaTensor(sparse_label((16, 16, 12)))
    transform = Compose(
        [
            LesionMapsd("label", ignore_index=255),
            RandSpatialCropd(keys, (8, 8, 8), random_size=False),
            RandFlipd(keys, prob=1, spatial_axis=0),
        ]
    ).set_random_state(0)
    dataset = CacheDataset([{"label": label}] * 2, transform, progress=False)
    items = list(dataset)
    batch = {key: torch.stack([item[key] for item in items]) for key in keys}
    in_lesion = torch.isin(batch["label"], torch.tensor([1, 2]))
    assert torch.equal(batch["label_components"] > 0, in_lesion)
    assert torch.equal(batch["label_voronoi"][in_lesion], batch["label_components"][in_lesion])
    logits = torch.zeros(2, 3, 8, 8, 8, requires_grad=True)
    inner = DiceFocalLoss(softmax=True, ignore_index=255)
    for loss, name in zip((BlobLoss(inner), ConnectedComponentLoss(inner)), maps, strict=True):
        value = loss(logits, batch["label"], batch[name])
        assert type(value) is torch.Tensor
        assert torch.isfinite(torch.autograd.grad(value, logits)[0]).all()


def test_an_inverse_of_what_came_before_passes_the_maps_over():
    flip = RandFlipd("label", prob=1, spatial_axis=0)
    pipeline = Compose([flip, LesionMapsd("label", voronoi=False)])
    label = MetaTensor(sparse_label())
    out = pipeline({"label": label})
    with allow_missing_keys_mode(pipeline):
        back = pipeline.inverse({"label": out["label"]})
    assert torch.equal(back["label"], label)


@pytest.mark.parametrize(
    ("options", "label", "message"),
    [
        (
            {"num_classes": 3, "regions": REGIONS},
            None,
            "num_classes and regions exclude each other: got both. Leave one out.",
        ),
        (
            {"num_classes": 1},
            None,
            "num_classes must be 2 or more, background included: got 1.",
        ),
        ({"connectivity": 0}, None, "connectivity must be 1 or more: got 0."),
        (
            {"spacing_mm": (1, 0)},
            None,
            "spacing_mm must be positive along each axis: got (1, 0).",
        ),
        (
            {"connectivity": 3},
            torch.zeros(1, 4, 4),
            ("connectivity must be at most the number of spatial axes: expected at most 2, got 3."),
        ),
        (
            {"spacing_mm": (1, 1)},
            torch.zeros(1, 4, 4, 4),
            "spacing_mm must have one size per axis: expected 3, got 2.",
        ),
        (
            {},
            torch.zeros(1, 4, 4),
            (
                "the nearest lesion is a matter of mm, and a Tensor has no affine. Pass "
                "spacing_mm=, or a MetaTensor."
            ),
        ),
        (
            {"ignore_index": 255},
            torch.zeros(2, 4, 4),
            (
                "num_classes, regions and ignore_index speak of labels (1, *S): got 2 channels. "
                "Leave them out."
            ),
        ),
    ],
)
def test_bad_arguments_and_labels_are_refused(options, label, message):
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        LesionMapsd("label", **options)({"label": label})


@pytest.mark.parametrize(
    ("value", "ignored"), [(3, None), (-1, None), (255, None), (255, 9), (0.5, None)]
)
def test_a_label_that_is_no_class_is_named(value, ignored):
    label = torch.tensor([[[0, 1, value]]])
    with pytest.raises(ValueError, match="expected class indices") as error:
        LesionMapsd("label", num_classes=3, ignore_index=ignored)({"label": label, "case_id": "x"})
    assert str(error.value) == (
        f"x: holds {value}, expected class indices 0 to 2, or ignore_index. Encode the label "
        f"first, or set num_classes."
    )
