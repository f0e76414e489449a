"""The pipelines of the tool, composed of MONAI's transforms and ours."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import SpatialPadd
from monai.transforms.spatial.dictionary import Orientationd, Spacingd
from monai.transforms.transform import Transform
from monai.transforms.utility.dictionary import CastToTyped, EnsureTyped
from monai.transforms.utils import allow_missing_keys_mode

from segfocal import checks
from segfocal.config.schema import AugmentConfig, DataConfig, Normalization
from segfocal.data.cases import Case
from segfocal.errors import UserError
from segfocal.labels import IGNORE_CLASS, LabelScheme
from segfocal.transforms.crop_indices import ClassCropIndicesd
from segfocal.transforms.lesion_crop_indices import LesionCropIndicesd
from segfocal.transforms.load_case import LoadCased
from segfocal.transforms.normalize import NormalizeChannelsd
from segfocal.transforms.rand_patch import RandPatchd

CROP_INDICES = "label_cls_indices"


class Preprocessing(Transform):
    """Reads a case, then runs transforms over it; can take a result back to the source grid.

    A transform of MONAI's kind, whose input is a `Case` or `{"image": path or paths}`:
    `CacheDataset(dataset.cases, preprocessing(...))` reads each case once. Nothing in it is random.

    The reading stands outside the `Compose`: MONAI turns every exception in one into a
    `RuntimeError` of its own, and the line meant for the user would be lost.

    Args:
        load: Reads and verifies the files.
        transforms: What follows, MONAI's inverses included.
    """

    def __init__(self, load: LoadCased, transforms: Compose) -> None:
        self.load = load
        self.transforms = transforms

    def __call__(self, case: Case | Mapping[Hashable, Any]) -> dict[Any, Any]:
        """The preprocessed case, by key.

        Args:
            case: A case, or what `LoadCased` takes: `{"image": path or paths}`.
        """
        data: Mapping[Hashable, Any] = {"case": case} if isinstance(case, Case) else case
        prepared: dict[Any, Any] = self.transforms(self.load(data))
        return prepared

    def check_own(self, image: MetaTensor) -> None:
        """Refuse an image that others have prepared: the way back would not be this one's.

        Raises:
            ValueError: If it is none of this object's.
        """
        orientation = self._orientation.ornt_transform
        made = image.applied_operations
        try:
            orientation.check_transforms_match(made[0] if made else {})
        except RuntimeError:
            raise ValueError(
                'image was prepared by another pipeline. Pass preprocessing(case)["image"] of '
                "this very one, which knows the way back to the file."
            ) from None

    def to_source(self, volume: MetaTensor) -> MetaTensor:
        """Undoes orientation and resampling of a map `(K, *S)` on the preprocessed grid."""
        with allow_missing_keys_mode(self.transforms):
            source = self.transforms.inverse({"image": volume})["image"]
        assert isinstance(source, MetaTensor)
        return source

    def to_file_axes(self, volume: MetaTensor) -> MetaTensor:
        """Undoes orientation alone, of a map `(K, *S)` on the grid before resampling."""
        source = self._orientation.inverse({"image": volume})["image"]
        assert isinstance(source, MetaTensor)
        return source

    @property
    def _orientation(self) -> Orientationd:
        first = self.transforms.transforms[0]
        assert isinstance(first, Orientationd)
        return first


def preprocessing(
    data: DataConfig, scheme: LabelScheme, file_channels: Sequence[str], channels: Sequence[str]
) -> Preprocessing:
    """Case to image (and label) in RAS order, on one spacing if asked, with scaled intensities.

    The same for training, validation and prediction; deterministic; invertible up to resampling.

    Args:
        data: The data section of the config.
        scheme: What label values mean.
        file_channels: Channels in the files, in their order.
        channels: Channels the network sees, in its order.

    Raises:
        UserError: If a channel the network needs is not in the files.
    """
    missing = [name for name in channels if name not in file_channels]
    if missing:
        raise UserError(
            f"data.channels: the network expects {','.join(channels)}; the data has "
            f"{','.join(file_channels)}."
        )
    read, *steps = preparation_steps(data, file_channels, channels)
    load = LoadCased(scheme, **read.arguments)
    return Preprocessing(load, Compose([step.transform(**step.arguments) for step in steps]))


class Step(NamedTuple):
    """A transform that is yet to be made.

    Attributes:
        transform: Its class.
        arguments: Plain values, as JSON can hold them, but for the scheme of `LoadCased` and the
            type of a `CastToTyped`.
    """

    transform: type[Transform]
    arguments: dict[str, Any]


def preparation_steps(
    data: DataConfig,
    file_channels: Sequence[str],
    channels: Sequence[str],
    *,
    labelled: bool = True,
) -> list[Step]:
    """The steps of `preprocessing`, `LoadCased` first.

    Args:
        data: The data section of the config.
        file_channels: Channels in the files, in their order.
        channels: Channels the network sees, in its order; all are in the files.
        labelled: Whether cases may have a label; without, there is no step for it.
    """
    keys = ("image", "label") if labelled else ("image",)
    read = {
        "channels": list(file_channels),
        "select": [list(file_channels).index(name) for name in channels],
        "channel_dim": data.channel_dim,
        "affine_tolerance_mm": data.affine_tolerance_mm,
        "resample_channels": data.resample_channels,
        "max_voxels": data.max_voxels,
    }
    missing: dict[str, Any] = {"allow_missing_keys": True} if labelled else {}
    steps = [
        Step(LoadCased, read),
        Step(Orientationd, {"keys": keys, "axcodes": "RAS", "labels": None, **missing}),
    ]
    if data.spacing_mm is not None:
        mode = ("bilinear", "nearest")[: len(keys)]
        spacing = {"keys": keys, "pixdim": data.spacing_mm, "mode": mode, **missing}
        steps.append(Step(Spacingd, spacing))
        if labelled:
            # Spacingd gives floats; class indices, 255 included, come through nearest unharmed.
            cast = {"keys": "label", "dtype": torch.uint8, **missing}
            steps.append(Step(CastToTyped, cast))
    rules = normalization_rules(data.normalize, channels)
    steps.append(Step(NormalizeChannelsd, {"keys": "image", "rules": rules}))
    return steps


def normalization_rules(
    normalize: Normalization | dict[str, Normalization], channels: Sequence[str]
) -> list[Normalization]:
    """One rule per channel from the config's one-for-all or by-channel setting."""
    if not isinstance(normalize, dict):
        return [normalize] * len(channels)
    if set(normalize) != set(channels):
        raise UserError(
            f"data.normalize: expected one rule for each channel of {','.join(channels)}, "
            f"got rules for {','.join(normalize)}."
        )
    return [normalize[name] for name in channels]


def crop_preparation(
    scheme: LabelScheme,
    patch_size: Sequence[int] | None,
    foreground_by: Literal["voxel", "lesion"] = "voxel",
) -> Compose:
    """What a training case needs once: padding up to the patch, and where to centre crops.

    Args:
        scheme: What class indices mean.
        patch_size: Smallest spatial size; None pads nothing.
        foreground_by: Whether foreground voxels or lesions are drawn equally (`train` section).

    Raises:
        ValueError: If `foreground_by` is another word.
    """
    checks.check_word("foreground_by", foreground_by, ("voxel", "lesion"))
    steps = []
    if patch_size is not None:
        steps.append(SpatialPadd("image", patch_size, mode="constant", value=0))
        steps.append(SpatialPadd("label", patch_size, mode="constant", value=IGNORE_CLASS))
    if foreground_by == "lesion":
        # Regions nest: a rim of oedema round a core is one lesion, not the crumbs of each class.
        connect: Literal["class", "foreground"] = "foreground" if scheme.regions else "class"
        steps.append(
            LesionCropIndicesd("label", scheme.num_classes, connect=connect, absent="skip")
        )
    else:
        steps.append(ClassCropIndicesd("label", scheme.num_classes, absent="skip"))
    steps.append(EnsureTyped(("image", "label"), track_meta=False))
    return Compose(steps)


def crop_ratios(
    scheme: LabelScheme,
    foreground_fraction: float,
    weights: Mapping[str, float] | None = None,
) -> list[float]:
    """How often a crop is centred on each class.

    Args:
        scheme: What class indices mean.
        foreground_fraction: Share of crops centred on a foreground class.
        weights: How that share is divided, by class name; 1 for a class that is not named.
    """
    parts = [(weights or {}).get(name, 1.0) for name in scheme.names[1:]]
    total = sum(parts)
    return [1 - foreground_fraction, *(foreground_fraction * part / total for part in parts)]


def augmentation(
    augment: AugmentConfig,
    scheme: LabelScheme,
    patch_size: Sequence[int],
    foreground_fraction: float,
    weights: Mapping[str, float] | None = None,
) -> RandPatchd:
    """A random patch of a prepared case, and its random changes.

    Seed it for every patch (`set_random_state`), so that the patch is a function of the seed alone.

    Args:
        augment: The settings of `train.augment`.
        scheme: What class indices mean.
        patch_size: Spatial size of the patch.
        foreground_fraction: Share of crops centred on a foreground class.
        weights: How that share is divided among the classes, by name (`crop_ratios`).
    """
    return RandPatchd(
        ("image", "label"),
        patch_size,
        indices_key=CROP_INDICES,
        ratios=crop_ratios(scheme, foreground_fraction, weights),
        augment=augment,
        mode=("bilinear", "nearest"),
    )
