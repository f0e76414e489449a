"""Config to objects: the one place where the tool constructs network, loss, optimiser, loaders."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from segfocal.checkpoint import load_checkpoint
from segfocal.config.schema import Config, TrainConfig
from segfocal.data.cases import Case
from segfocal.data.partial import annotated_outputs
from segfocal.errors import UserError
from segfocal.labels import LabelScheme
from segfocal.networks import build_network, check_network, set_prior_bias
from segfocal.statistics.partial_labels import output_shares
from segfocal.training.case_cache import Prepared, code_fingerprint
from segfocal.training.case_store import CaseStore
from segfocal.training.patches import EpochSampler, PatchDataset, stable_seed
from segfocal.training.preflight import Plan
from segfocal.training.run_folder import versions
from segfocal.transforms.pipelines import (
    CROP_INDICES,
    augmentation,
    crop_preparation,
    preprocessing,
)


def make_network(config: Config, plan: Plan) -> nn.Module:
    """The network of a config, checked on meta tensors and initialised from the run's seed."""
    num_channels, scheme = len(plan.channels), plan.dataset.scheme
    make = partial(
        build_network,
        config.network.name,
        config.network.args,
        in_channels=num_channels,
        out_channels=scheme.num_outputs,
    )
    check_network(make, config.train.patch_size, num_channels, scheme.num_outputs)
    torch.manual_seed(stable_seed(config.train.seed, "network"))
    network = make()
    if config.network.prior_bias:
        shares = output_shares(plan.counts, plan.annotated)
        set_prior_bias(network, shares, scheme.activation)
    return network


def init_from(network: nn.Module, path: Path) -> int:
    """Copies the weights of another run that have the same name and shape.

    Returns:
        How many tensors were copied.

    Raises:
        UserError: If none fits.
    """
    own = network.state_dict()
    other = load_checkpoint(path).model
    fitting = {n: t for n, t in other.items() if n in own and own[n].shape == t.shape}
    if not fitting:
        raise UserError(f"--init-from {path}: no weight has the name and shape of this network's.")
    network.load_state_dict({**own, **fitting})
    return len(fitting)


def make_optimizer(train: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum 0.99."""
    if train.optimizer == "SGD":
        return torch.optim.SGD(
            network.parameters(),
            train.lr,
            momentum=0.99,
            nesterov=True,
            weight_decay=train.weight_decay,
        )
    return torch.optim.AdamW(network.parameters(), train.lr, weight_decay=train.weight_decay)


class CasePreparation:
    """Reads and prepares a case; picklable, so that loader processes can do it too.

    Args:
        config: The run's config.
        plan: Data set and channels.
        for_training: Pad, find crop centres and drop what only validation needs.

    Attributes:
        description: Everything that a prepared case depends on besides its files: a cache's key.
    """

    def __init__(self, config: Config, plan: Plan, *, for_training: bool) -> None:
        scheme = plan.dataset.scheme
        self.preprocessing = preprocessing(
            config.data, scheme, plan.dataset.channels, plan.channels
        )
        size = config.train.patch_size if config.data.pad else None
        self.crops = (
            crop_preparation(scheme, size, config.train.foreground_by) if for_training else None
        )
        self.description = _description(config, plan, for_training=for_training)

    def __call__(self, case: Case) -> Prepared:
        """The prepared case."""
        prepared: Prepared = self.preprocessing(case)
        if self.crops is None:
            return prepared
        ready: Prepared = self.crops(prepared)
        return {key: ready[key] for key in ("case_id", "image", "label", CROP_INDICES)}


def _description(config: Config, plan: Plan, *, for_training: bool) -> dict[str, Any]:
    """Plain values; a setting of the data section that is added later is part of it by itself."""
    elsewhere = {"root", "layout", "split", "val_fraction", "num_workers"}
    elsewhere |= {"cache", "cache_dir", "cache_ram_gb"}
    elsewhere |= {"case_list", "image_pattern", "label_pattern", "exclude", "partial"}
    train = config.train
    crops = {"patch_size": list(train.patch_size), "foreground_by": train.foreground_by}
    return {
        "data": config.data.model_dump(mode="json", exclude=elsewhere),
        "scheme": plan.dataset.scheme.to_dict(),
        "file_channels": list(plan.dataset.channels),
        "channels": list(plan.channels),
        "crops": crops if for_training else None,
        "versions": versions(("torch", "monai", "numpy", "scipy", "nibabel", *_other_readers())),
        "code": code_fingerprint(),
    }


def _other_readers() -> list[str]:
    """The packages that read other formats (`segfocal.data.foreign`), of those installed."""
    modules = {"pynrrd": "nrrd", "SimpleITK": "SimpleITK"}
    return [package for package, module in modules.items() if find_spec(module)]


def make_loader(
    config: Config, scheme: LabelScheme, store: CaseStore, device: torch.device
) -> DataLoader[Prepared]:
    """Patches of an epoch, the same whatever `num_workers` is."""
    train = config.train
    changes = augmentation(
        train.augment,
        scheme,
        train.patch_size,
        train.foreground_fraction,
        train.foreground_weights,
    )
    annotated = [annotated_outputs(scheme, case.annotated) for case in store.cases]
    sampler = EpochSampler(
        len(store),
        train.batch_size * train.accumulate * train.steps_per_epoch,
        seed=train.seed,
    )
    workers = config.data.num_workers
    return DataLoader(
        PatchDataset(store, changes, seed=train.seed, annotated=annotated),
        batch_size=train.batch_size,
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )
