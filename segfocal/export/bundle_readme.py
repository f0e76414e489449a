"""docs/README.md of a bundle: what it is, how to run it, what it needs."""

from __future__ import annotations

import textwrap

import monai
import torch

from segfocal._version import __version__
from segfocal.data.spacing import range_text
from segfocal.export.bundle_metadata import epoch_text, release, required_packages
from segfocal.export.model import TrainedModel
from segfocal.networks import import_path
from segfocal.transforms.normalize import ChannelRule
from segfocal.transforms.pipelines import normalization_rules

_RULES = {
    "zscore": "mean 0, standard deviation 1",
    "zscore_nonzero": "mean 0, standard deviation 1 over the voxels that are not 0",
    "none": "as it is",
}

_PAGE = """# Segmentation of {targets}

{notice}A MONAI bundle, exported by segfocal {version} from `{file}`: {network}, {epoch}.
Not a medical device; not for clinical use.

## Run it

```
pip install 'segfocal[bundle]'
cd THIS_FOLDER
python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
    --dataset_dir /path/to/images --output_dir /path/to/labels
```

It was written with {packages}. `dataset_dir` is a folder of NIfTI files, {naming}, or a
data set in a layout that segfocal knows. Each case becomes `CASE.nii.gz` in `output_dir` on its
images' own grid, the same label map, voxel for voxel, as `segfocal-predict --ckpt {file}` writes on
the same device. A file of that name is written over. Without the two options images are read from
`images` and labels written to `labels` in the bundle's folder.

In place of a folder, `--datalist "[{{'image': {example}}}]"` names files.

## What goes in

| channel | prepared |
|---|---|
{channels}

In the files the channels are, in this order: {file_channels}. Volumes are turned to the axes
R, A, S and {spacing}. The network sees windows of {patch} voxels,
which overlap by {overlap:g} of their length.

## What comes out

The network gives {num_outputs} logits a voxel ({activation}): {outputs}. In the label map:

| value | meaning |
|---|---|
{values}

{cleaning}

## The network alone

`network_def` in `configs/inference.json` and `models/model.pt`, a plain state dict, need
{needs}:

```python
import torch
from monai.bundle import ConfigParser

parser = ConfigParser()
parser.read_config("configs/inference.json")
network = parser.get_parsed_content("network_def").eval()
network.load_state_dict(torch.load("models/model.pt", weights_only=True))
```

Reading files, intensities, windows and the way back to the files' grid are segfocal's, which is
why the whole of the bundle needs it.

## Before you pass it on

State authors and copyright in `configs/metadata.json`, and put a `LICENSE` here: the weights are
yours to license, and the terms of the data they were trained on may bind you.
"""


def bundle_readme(model: TrainedModel) -> str:
    """The page, as Markdown."""
    scheme, checkpoint, config = model.scheme, model.checkpoint, model.config
    several = len(checkpoint.file_channels) > 1
    rules = normalization_rules(config.data.normalize, checkpoint.channels)
    page = _PAGE.format(
        targets=", ".join(scheme.target_names),
        notice=f"**{model.notice}**\n\n" if model.notice else "",
        version=__version__,
        file=model.file,
        network=config.network.name,
        epoch=epoch_text(model),
        packages=", ".join(f"{name} {version}" for name, version in _packages().items()),
        naming="one 4-D file a case or `CASE_0000.nii.gz`, `CASE_0001.nii.gz` ... one a channel"
        if several
        else "one a case",
        example="['/path/CASE_0000.nii.gz', '/path/CASE_0001.nii.gz']"
        if several
        else "'/path/CASE.nii.gz'",
        channels="\n".join(
            f"| {name} | {_rule_text(rule)} |"
            for name, rule in zip(checkpoint.channels, rules, strict=True)
        ),
        file_channels=", ".join(checkpoint.file_channels),
        spacing=_spacing_text(model),
        patch=" x ".join(map(str, model.patch_size)),
        overlap=config.infer.overlap,
        num_outputs=scheme.num_outputs,
        activation=scheme.activation,
        outputs=", ".join(scheme.output_names),
        values="\n".join(
            f"| {value} | {name} |" for value, name in zip(scheme.values, scheme.names, strict=True)
        ),
        cleaning=_cleaning_text(model),
        needs=_needs_text(model),
    )
    return _filled(page)


def _filled(page: str) -> str:
    """The page with its paragraphs broken into lines; code, tables and headings as they are."""
    blocks, is_code = [], False
    for block in page.split("\n\n"):
        was_code = is_code
        is_code ^= block.count("```") % 2 == 1
        if not (was_code or is_code or block.startswith(("#", "|", "```", "**"))):
            block = textwrap.fill(block, 100, break_long_words=False, break_on_hyphens=False)
        blocks.append(block)
    return "\n\n".join(blocks) + "\n"


def _packages() -> dict[str, str]:
    framework = {"MONAI": release(monai.__version__), "torch": release(torch.__version__)}
    return {**framework, **required_packages()}


def _rule_text(rule: ChannelRule) -> str:
    if isinstance(rule, str):
        return _RULES[rule]
    low, high = rule
    return f"clipped to {low:g} .. {high:g}, scaled to -1 .. 1"


def _spacing_text(model: TrainedModel) -> str:
    spacing, trained = model.config.data.spacing_mm, model.checkpoint.spacing_mm
    if spacing is not None:
        return f"resampled to voxels of {' x '.join(f'{mm:g}' for mm in spacing)} mm"
    if trained is None:
        return "not resampled"
    return (
        f"not resampled: the network was trained on voxels of {range_text(trained)} and is not to "
        f"be trusted on others"
    )


def _cleaning_text(model: TrainedModel) -> str:
    infer, scheme = model.config.infer, model.scheme
    parts = []
    if scheme.regions:
        parts.append(
            f"A region is where its probability is above {infer.threshold:g}; later regions are "
            f"written over earlier ones."
        )
    if infer.min_lesion_mm3 > 0:
        parts.append(f"Components below {infer.min_lesion_mm3:g} mm3 are removed.")
    if infer.keep_largest:
        parts.append("Only the largest component is kept.")
    if model.flip_axes:
        parts.append("Logits are averaged over mirrored windows.")
    return " ".join(parts) or "Nothing is removed from it."


def _needs_text(model: TrainedModel) -> str:
    package = import_path(model.config.network.name).partition(".")[0]
    return "MONAI and torch alone" if package == "monai" else f"`{package}`, MONAI and torch"
