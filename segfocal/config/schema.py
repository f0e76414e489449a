"""Every setting of a run, its type, range and default: checked before torch is imported.

A field's docstring is its documentation; `config.document` writes docs/config.md from them.
"""

from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

Positive = Field(gt=0)
AlphaScheme = Literal[
    "inverse", "balanced", "median_frequency", "effective_number", "enet", "generalized_dice"
]
AlphaUnit = Literal["voxels", "lesions", "volumes"]
Normalization = Literal["zscore", "zscore_nonzero", "none"] | tuple[float, float]
Tracker = Literal["tensorboard", "mlflow", "wandb"]


def check_device(name: str) -> str:
    """The name of a device; whether there is such a one is for torch to say.

    Raises:
        ValueError: If no device that segfocal was tried on is called so.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("expected auto, cpu, cuda or cuda:N")
    return name


Device = Annotated[str, AfterValidator(check_device)]


class Section(BaseModel):
    """A part of the config: unknown names are refused, docstrings are descriptions."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts true as 1, and pydantic follows it."""
        assert info.field_name is not None
        parts = value if isinstance(value, (list, tuple)) else [value]
        takes_it = cls.model_fields[info.field_name].annotation is bool
        if not takes_it and any(isinstance(part, bool) for part in parts):
            raise ValueError("expected no true or false")
        return value


class DataConfig(Section):
    """Where the cases are and what their files mean."""

    root: Path
    """Folder of the data set; see docs/data.md for the layouts. A relative path counts from the
    folder that the command is started in."""
    layout: Literal["auto", "msd", "nnunet", "brats", "bids", "list", "csv", "folder"] = "auto"
    """How the files lie in it; `auto` finds out; csv is another name for list."""
    case_list: Path | None = None
    """A CSV, TSV or JSON file that names every case's files, here or in the root; default:
    cases.csv, cases.tsv or cases.json in the root."""
    image_pattern: str | dict[str, str] | None = None
    """Paths of the images below the root, as `images/{case}_{channel}.nii.gz`; one for all or one
    by channel."""
    label_pattern: str | None = None
    """Paths of the labels below the root, as `labels/{case}.nii.gz`; in BIDS the file names of the
    labels, as `*_desc-lesion_mask.nii.gz`."""
    exclude: list[str] = []
    """Cases to leave out: ids, or patterns of them (`sub-*_ses-02`)."""
    labels: str | dict[str, int | list[int]] | None = None
    """Names and values (a list of values makes a region), a preset (brats18-22, brats23,
    brats24, msd-task01), or `auto` for the values that the labels hold. Default: what dataset.json
    or the layout declares."""
    partial: dict[str, list[str]] | None = None
    """Cases annotated in part: an id, a pattern of ids (`btcv_*`) or a source of the list, to the
    names of what those cases were annotated for. The rest is masked out of the loss and not
    scored."""
    regions_class_order: list[int] | None = None
    """For regions, the value written for each; derived where it can be."""
    channels: list[str] | None = None
    """Channels the network sees, in this order; default: those of dataset.json. In BIDS how the
    file names end (`dwi`, `acq-b1000_dwi`), in a list the columns, for `{channel}` the words in
    the file names."""
    channel_dim: int | None = None
    """Axis of the channels in a 4-D image; default: the fourth, as MSD writes them."""
    affine_tolerance_mm: float = Field(0.1, gt=0)
    """Largest distance between the corners of image and label that is taken for rounding."""
    resample_channels: bool = False
    """Resample a channel on another grid onto that of the first channel (linearly; outside of its
    field of view it has its smallest value); false: refuse it."""
    max_voxels: int = Field(1_000_000_000, gt=0)
    """Voxels of a file, channels included, above which its header is not believed (a damaged
    header, a decompression bomb): such a file is refused before memory is taken for it. So is a
    `spacing_mm` that makes more voxels than that of a case."""
    spacing_mm: tuple[float, float, float] | None = None
    """Resample to this voxel size (R, A, S axes); default: each case's own grid, and
    segfocal-predict warns of voxels that are not of the size trained on."""
    normalize: Normalization | dict[str, Normalization] = "zscore"
    """`zscore` per case and channel, `zscore_nonzero` over the voxels that are not 0 (skull
    stripped), a window `[low, high]` scaled to -1..1 (CT), `none`; one for all, or one for
    every channel by its name."""
    pad: bool = True
    """Pad a volume smaller than the patch (padded voxels are ignored); false: refuse it."""
    split: Path | None = None
    """A split.json to use, or a list of such splits (nnU-Net's splits_final.json) of which `fold`
    is one; default: a split is drawn from `train.seed` and written to the run."""
    folds: int | None = Field(None, ge=2)
    """Cross-validation: the patients are dealt out over so many folds by `train.seed`, and `fold`
    validates, in place of `val_fraction`. Start a run for each fold."""
    fold: int | None = Field(None, ge=0)
    """The fold that validates, 0 for the first; the run's default folder is called after it."""
    val_fraction: float = Field(0.2, ge=0, lt=1)
    """Share of the patients held out for validation; 0 trains on all and validates on none. A
    resumed run keeps its split."""
    patient_pattern: str | None = None
    """Where patients were scanned more than once, how a case's id names the patient: `{patient}_T*`
    (`*` for anything). All scans of a patient train, or all validate. Default: in BIDS the
    subject, else every case is a patient."""
    num_workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Processes that cut and augment patches, of each rank; the result does not depend on it. auto:
    none on the CPU, whose cores compute; for a GPU up to four, as the machine has cores."""
    cache: Literal["auto", "ram", "disk", "none"] = "auto"
    """Where prepared cases are kept. `ram`: in memory up to `cache_ram_gb`, the rest prepared anew
    at every access; `disk`: in files of `cache_dir` that are mapped, not read, and found again by
    the next run; `auto`: in memory, and what does not fit on disk; `none`: nowhere. The result does
    not depend on it."""
    cache_dir: Path | None = None
    """Folder of the files; default: `segfocal` in $XDG_CACHE_HOME, or in ~/.cache. They hold images
    of patients: the folder is made for the user alone, and a file no run used for 30 days goes."""
    cache_ram_gb: float | None = Field(None, ge=0)
    """Memory for prepared training cases; default: half of what is free when the run starts.
    Validation cases get a quarter of what is then left."""

    @field_validator("spacing_mm")
    @classmethod
    def _spacing_positive(
        cls, spacing_mm: tuple[float, float, float] | None
    ) -> tuple[float, float, float] | None:
        if spacing_mm is not None and min(spacing_mm) <= 0:
            raise ValueError("expected three numbers > 0")
        return spacing_mm

    @field_validator("folds")
    @classmethod
    def _one_way_to_split(cls, folds: int | None, info: ValidationInfo) -> int | None:
        if folds is not None and info.data.get("split") is not None:
            raise ValueError("expected none beside data.split, which says who validates")
        return folds

    @field_validator("fold")
    @classmethod
    def _fold_of_folds(cls, fold: int | None, info: ValidationInfo) -> int | None:
        folds, has_file = info.data.get("folds"), info.data.get("split") is not None
        if folds is not None and (fold is None or fold >= folds):
            raise ValueError(f"expected the fold that validates, 0 to {folds - 1}")
        if fold is not None and folds is None and not has_file:
            raise ValueError("expected none without data.folds, or a data.split that holds folds")
        return fold

    @field_validator("normalize")
    @classmethod
    def _windows_open(
        cls, normalize: Normalization | dict[str, Normalization]
    ) -> Normalization | dict[str, Normalization]:
        rules = normalize.values() if isinstance(normalize, dict) else [normalize]
        if any(isinstance(rule, tuple) and rule[0] >= rule[1] for rule in rules):
            raise ValueError("expected a window [low, high] with low < high")
        return normalize


class NetworkConfig(Section):
    """The network, by MONAI's name or a dotted path, and its arguments."""

    name: str = "SegResNet"
    """SegResNet, DynUNet, UNet, or `package.module.Class` taking in_channels and out_channels."""
    args: dict[str, Any] = {}
    """Arguments by their MONAI names, over MONAI's defaults and these. SegResNet: `init_filters:
    16`. UNet: `channels: [16, 32, 64, 128], strides: [2, 2, 2], num_res_units: 2`. DynUNet:
    `filters: [16, 32, 64, 128, 256], strides: [1, 2, 2, 2, 2], kernel_size: [3, 3, 3, 3, 3],
    upsample_kernel_size: [2, 2, 2, 2], res_block: true`."""
    prior_bias: bool = True
    """Start the last layer's bias at the share of voxels of each output (Lin et al. 2017, section
    3.3), so that the first steps are not spent on learning that lesions are rare."""


class LossConfig(Section):
    """The loss; everything is computed over the voxels that are not ignored.

    Settings that the chosen loss does not look at are named in a line when a run starts.
    """

    name: Literal[
        "DiceFocalLoss",
        "DiceCELoss",
        "GeneralizedDiceFocalLoss",
        "TverskyFocalLoss",
        "UnifiedFocalLoss",
        "DiceLoss",
        "TverskyLoss",
        "GeneralizedDiceLoss",
        "FocalLoss",
    ] = "DiceFocalLoss"
    """Which loss of `segfocal.losses`; docs/which-loss.md says when to use what."""
    gamma: float | list[float] = 2.0
    """Focusing exponent of the focal term, >= 0; one number or one per output channel."""
    alpha: AlphaScheme | float | list[float] | None = None
    """Class weights of the focal term: a scheme derived from the training split, one weight per
    output channel, a number (MONAI's meaning), or none."""
    alpha_unit: AlphaUnit = "voxels"
    """What the scheme counts: voxels; lesions (connected components of a class in each case, 26
    neighbours; the background once for every lesion); or volumes that hold the class."""
    alpha_max_ratio: float | None = Field(None, ge=1)
    """Largest ratio between two derived weights."""
    alpha_beta: float | None = Field(None, ge=0)
    """For `inverse` the exponent: 1 unless given, 0.5 is the inverse square root. For
    `effective_number` its beta, below 1: 1 - 1/N unless given. The other schemes refuse it."""
    ignore_index: int | list[int] | None = None
    """Label values that nobody annotated, besides the one dataset.json calls `ignore`."""
    include_background: bool = False
    """Whether the Dice term averages over the background class too (softmax)."""
    batch: bool = False
    """Dice (or Tversky) over the whole batch instead of each sample."""
    squared_pred: bool = False
    """Squared terms in Dice's denominator."""
    jaccard: bool = False
    """Jaccard instead of Dice."""
    smooth_nr: float = Field(1e-5, ge=0)
    """Added to the numerator of Dice or Tversky."""
    smooth_dr: float = Field(1e-5, ge=0)
    """Added to the denominator of Dice or Tversky."""
    absent: Literal["smooth", "skip", "penalise"] = "smooth"
    """What a class without voxels in the patch counts in Dice: what the smoothing terms make of it,
    nothing, or its false positives. In the generalized Dice `smooth` means `penalise`."""
    tversky_alpha: float = Field(0.3, ge=0)
    """Weight of false positives in a Tversky term."""
    tversky_beta: float = Field(0.7, ge=0)
    """Weight of false negatives in a Tversky term."""
    tversky_gamma: float = Field(1.0, ge=1)
    """Exponent of the focal Tversky form, (1 - TI)^(1 / gamma)."""
    unified_weight: float = Field(0.5, ge=0, le=1)
    """Share of the focal term in the unified focal loss."""
    unified_delta: float = Field(0.6, ge=0, le=1)
    """Weight of foreground and of false negatives in the unified focal loss."""
    unified_gamma: float = Field(0.5, ge=0, lt=1)
    """gamma of the unified focal loss."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Share of each voxel's target that the voxelwise term spreads over the classes."""
    top_k: float | None = Field(None, gt=0, le=100)
    """Per cent of the voxels that count in the voxelwise term, the hardest ones; null: all. With
    `normalizer: valid` alone."""
    normalizer: Literal["valid", "positives", "alpha", "none"] = "valid"
    """What the sum of the voxelwise term is divided by. `valid`: the voxels that are not ignored;
    `positives`: those of a class other than the background, or of a region; `alpha`: the sum of
    the weights; `none`: nothing."""
    lambda_dice: float = Field(1.0, ge=0)
    """Weight of the overlap term (Dice, Tversky)."""
    lambda_focal: float = Field(1.0, ge=0)
    """Weight of the voxelwise term (focal, cross-entropy)."""

    @model_validator(mode="after")
    def _alpha_has_a_focal_term(self) -> LossConfig:
        if self.alpha is not None and self.name in (
            "DiceCELoss",
            "UnifiedFocalLoss",
            "DiceLoss",
            "TverskyLoss",
            "GeneralizedDiceLoss",
        ):
            raise ValueError(
                f"{self.name} has no focal term for alpha to weigh. Set loss.alpha: null, or name "
                f"a loss with one (DiceFocalLoss with gamma 0 is Dice plus weighted cross-entropy)."
            )
        return self

    @field_validator("gamma")
    @classmethod
    def _gamma_not_negative(cls, gamma: float | list[float]) -> float | list[float]:
        if not all(g >= 0 for g in (gamma if isinstance(gamma, list) else [gamma])):
            raise ValueError("expected numbers >= 0")
        return gamma


class AugmentConfig(Section):
    """Random changes of a training patch. Each is a function of (seed, epoch, case, crop)."""

    flip_axes: list[Literal[0, 1, 2]] = [0, 1, 2]
    """Axes (R, A, S) mirrored with probability one half."""
    affine_prob: float = Field(0.2, ge=0, le=1)
    """How often a patch is rotated and zoomed."""
    rotate_degrees: float = Field(15.0, ge=0, le=180)
    """Largest rotation about the S axis."""
    scale: float = Field(0.15, ge=0, lt=1)
    """Largest relative zoom in the R-A plane, the same along both axes; S is left alone."""
    intensity_scale: float = Field(0.1, ge=0, lt=1)
    """Largest relative change of contrast, in four of five patches."""
    intensity_shift: float = Field(0.1, ge=0)
    """Largest change of brightness, in normalised units, in four of five patches."""
    noise_std: float = Field(0.05, ge=0)
    """Largest standard deviation of Gaussian noise, in normalised units, in one of five patches."""
    channel_drop_prob: float = Field(0.0, ge=0, le=1)
    """How often one of several channels is blanked (to 0: a z-score's mean, a window's middle), so
    that the network learns not to follow a single one."""

    @field_validator("flip_axes")
    @classmethod
    def _each_axis_once(cls, axes: list[Literal[0, 1, 2]]) -> list[Literal[0, 1, 2]]:
        if len(set(axes)) < len(axes):
            raise ValueError("expected each axis once")
        return axes


class TrainConfig(Section):
    """How long, how fast, on what."""

    epochs: int = Field(100, gt=0)
    """Epochs at most; an epoch is `steps_per_epoch` optimiser steps."""
    steps_per_epoch: int = Field(50, gt=0)
    """Optimiser steps between two lines of metrics.csv."""
    max_minutes: float | None = Field(None, gt=0)
    """Wall-clock budget of the whole run, validation and report included; the learning rate reaches
    its end with it. Whichever of epochs and max_minutes comes first ends the run."""
    batch_size: int = Field(2, gt=0)
    """Patches per forward pass, over all ranks where torchrun started several."""
    accumulate: int = Field(1, gt=0)
    """Forward passes per optimiser step."""
    patch_size: tuple[int, int, int] = (96, 96, 96)
    """Voxels along R, A, S."""
    foreground_fraction: float = Field(0.67, ge=0, le=1)
    """Share of patches centred on a foreground voxel; `foreground_weights` says of which class. Of
    a case without foreground all are centred on background."""
    foreground_weights: dict[str, float] | None = None
    """How that share is divided, by class name: `{enhancing: 3}` draws enhancing three times as
    often as any other class; default: equally, however few voxels a class has. Divided among the
    classes that the case holds."""
    foreground_by: Literal["voxel", "lesion"] = "voxel"
    """voxel: every voxel of a class is as likely a centre, so large lesions win; lesion: every
    lesion is, so that a satellite of ten voxels is seen as often as a large mass."""
    optimizer: Literal["AdamW", "SGD"] = "AdamW"
    """AdamW, or SGD with Nesterov momentum 0.99 (nnU-Net's)."""
    lr: float = Field(1e-3, gt=0)
    """Largest learning rate."""
    weight_decay: float = Field(1e-5, ge=0)
    """Decoupled for AdamW."""
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    """Decay of the learning rate after the warm-up; poly has power 0.9."""
    warmup_fraction: float = Field(0.02, ge=0, lt=1)
    """Share of the run over which the learning rate rises."""
    grad_clip: float | None = Field(12.0, gt=0)
    """Largest norm of the gradient; null: no limit."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay per step of an exponential moving average of the weights, validated and saved in place
    of the raw ones; 0 is none."""
    amp: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of the forward pass; auto: bf16 where a GPU has it, fp16 on older ones, fp32 on
    the CPU."""
    device: Device = "auto"
    """auto, cpu, cuda or cuda:N; under torchrun each rank has the GPU of its number."""
    seed: int = Field(0, ge=0)
    """Everything random is a function of it."""
    val_every: int = Field(5, gt=0)
    """Epochs between validations on whole volumes; the last epoch is always validated. Where
    `max_minutes` is set those before take 15 % of it at most: then some are left out."""
    augment: AugmentConfig = AugmentConfig()
    """Random changes of a patch."""

    @field_validator("foreground_weights")
    @classmethod
    def _weights_not_negative(cls, weights: dict[str, float] | None) -> dict[str, float] | None:
        if weights is not None and not all(w >= 0 for w in weights.values()):
            raise ValueError("expected numbers >= 0")
        return weights

    @field_validator("patch_size")
    @classmethod
    def _patch_positive(cls, size: tuple[int, int, int]) -> tuple[int, int, int]:
        if min(size) < 1:
            raise ValueError("expected three positive numbers")
        return size


class InferConfig(Section):
    """Sliding window over whole volumes, in validation and in segfocal-predict.

    segfocal-predict goes by what the run was trained with; its `--set infer.threshold=0.4` says
    settings of this section anew.
    """

    overlap: float = Field(0.5, ge=0, lt=1)
    """Share of a window that the next one covers again."""
    sw_batch_size: int = Field(2, gt=0)
    """Windows per forward pass."""
    mode: Literal["gaussian", "constant"] = "gaussian"
    """How overlapping windows are weighed."""
    tta: Literal["none", "flips"] = "none"
    """flips: segfocal-predict averages over the mirrored windows (`train.augment.flip_axes`), at up
    to eight times the work; validation never does."""
    threshold: float = Field(0.5, gt=0, lt=1)
    """Probability above which a region is predicted (regions only)."""
    min_lesion_mm3: float = Field(0.0, ge=0)
    """Predicted components of a smaller volume are removed, all classes together; 0 keeps all."""
    keep_largest: bool = False
    """Only the largest predicted component is kept, all classes together: for one organ, or a
    disease with one lesion in every case."""


class Config(Section):
    """One run."""

    data: DataConfig
    network: NetworkConfig = NetworkConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    infer: InferConfig = InferConfig()
    out: Path | None = None
    """Folder of the run; default runs/<name of the config file>."""
    trackers: list[Tracker] = []
    """Where else the run can be followed, one or several: docs/trackers.md. `[tensorboard]` writes
    into the run folder; `mlflow` and `wandb` go where their own environment variables say."""
    send_pictures: bool = False
    """Send sample pictures and report.html to MLflow and Weights & Biases. They show patients and
    hold case ids; false: none leaves the run folder."""

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_or_several(cls, trackers: Any) -> Any:
        return [trackers] if isinstance(trackers, str) else trackers

    @model_validator(mode="after")
    def _affordable(self) -> Config:
        if self.loss.lambda_dice == 0 and self.loss.lambda_focal == 0:
            raise ValueError("loss.lambda_dice and loss.lambda_focal are both 0: nothing to learn")
        return self


def setting_names(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every setting's dotted name, sections expanded, in the order of the schema."""
    names: list[str] = []
    for field, info in section.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += setting_names(inner, f"{prefix}{field}.")
        else:
            names.append(prefix + field)
    return names


def tuple_length(setting: str) -> int:
    """How many values a setting holds, one after another; 0 where it may be any number.

    Example:
        >>> tuple_length("train.patch_size"), tuple_length("data.normalize")
        (3, 2)
    """
    *sections, name = setting.split(".")
    section: Any = Config
    for part in sections:
        section = section.model_fields[part].annotation
    return _longest_tuple(section.model_fields[name].annotation)


def _longest_tuple(annotation: Any) -> int:
    inner = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        return len(inner)
    return max(map(_longest_tuple, inner), default=0)
