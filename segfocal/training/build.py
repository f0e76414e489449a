"""Config to objects: the one place where the tool constructs network, loss, optimiser, loaders."""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.data import DataLoader

from segfocal.checkpoint import Checkpoint, load_weights
from segfocal.config.schema import Config, TrainConfig
from segfocal.data.cases import Case
from segfocal.data.partial import annotated_outputs
from segfocal.data.processes import available_cores
from segfocal.data.verify import blank_channels
from segfocal.errors import RunFailedError, UserError, one_line
from segfocal.inference.device import is_out_of_memory
from segfocal.labels import LabelScheme
from segfocal.networks import build_network, check_network, check_trainable, set_prior_bias
from segfocal.statistics.partial_labels import output_shares
from segfocal.training.case_cache import Prepared, code_fingerprint
from segfocal.training.case_store import CaseStore
from segfocal.training.patches import EpochSampler, PatchDataset, stable_seed
from segfocal.training.preflight import Plan
from segfocal.training.ranks import ALONE, Ranks
from segfocal.training.run_folder import versions
from segfocal.transforms.pipelines import (
    CROP_INDICES,
    augmentation,
    crop_preparation,
    preprocessing,
)

_MOST_LOADERS = 4
"""Processes of `data.num_workers: auto`: one makes a patch of 4 x 128^3 in some 50 ms."""

_WAITING_TOLD = 0.2


def make_network(config: Config, plan: Plan) -> nn.Module:
    """The network of a config, checked on meta tensors and initialised from the run's seed."""
    num_channels, scheme = len(plan.channels), plan.dataset.scheme
    args = config.network.args
    for name, number in (("in_channels", num_channels), ("out_channels", scheme.num_outputs)):
        if args.get(name, number) != number:
            raise UserError(
                f"network.args: {name}: expected {number}, as the data have it, got {args[name]}. "
                f"Leave it out."
            )
    make = partial(
        build_network,
        config.network.name,
        args,
        in_channels=num_channels,
        out_channels=scheme.num_outputs,
    )
    check_network(make, config.train.patch_size, num_channels, scheme.num_outputs)
    check_trainable(
        make,
        config.train.patch_size,
        num_channels,
        scheme.num_outputs,
        batch_size=config.train.batch_size,
    )
    torch.manual_seed(stable_seed(config.train.seed, "network"))
    network = make()
    if config.network.prior_bias:
        shares = output_shares(plan.counts, plan.annotated)
        set_prior_bias(network, shares, scheme.activation)
    return network


def init_from(network: nn.Module, path: Path, plan: Plan) -> list[str]:
    """Copies the weights of another run, or of a MONAI bundle, that have the same name and shape.

    Args:
        network: Changed in place.
        path: The other run's checkpoint, or a plain state dict such as a bundle's model.pt.
        plan: The data of this run.

    Returns:
        Lines for the user: what was copied and what was not, and what the other run saw or
        predicted otherwise.

    Raises:
        UserError: If fewer than half of the kernels fit: that is another network.
    """
    own = network.state_dict()
    weights, other = load_weights(path)
    fitting = {n: t for n, t in weights.items() if n in own and own[n].shape == t.shape}
    kernels = [name for name, tensor in own.items() if tensor.ndim > 1]
    num_fitting = sum(name in fitting for name in kernels)
    if 2 * num_fitting < len(kernels):
        raise UserError(
            f"--init-from {path}: {num_fitting} of {len(kernels)} kernels have the name and shape "
            f"of this network's; expected at least half. Set network.name and network.args to "
            f"those of {_network_of(other)}."
        )
    network.load_state_dict({**own, **fitting})
    new = [name for name in own if name not in fitting]
    told = ", ".join(new[:3]) + (f" and {len(new) - 3} more" if len(new) > 3 else "")
    copied = f"init   {len(fitting)} of {len(own)} tensors from {path}"
    epoch = "" if other is None else f", epoch {other.progress['epoch']}"
    lines = [copied + epoch + (f"; new: {told}" if new else "")]
    if other is None:
        doubt = (
            f"doubt  {path.name} holds weights alone and does not tell its channels and outputs. "
            f"Weights are copied by position; this run has {','.join(plan.channels)} to "
            f"{','.join(plan.dataset.scheme.output_names)}."
        )
        return [*lines, doubt]
    for what, theirs, ours in (
        ("channels", other.channels, plan.channels),
        ("outputs", other.scheme.output_names, plan.dataset.scheme.output_names),
    ):
        if theirs != ours:
            is_order = what == "channels" and sorted(theirs) == sorted(ours)
            cure = f" Set data.channels: [{', '.join(theirs)}]." if is_order else ""
            lines.append(
                f"doubt  {path.name} has {what} {','.join(theirs)}; this run {','.join(ours)}. "
                f"Weights are copied by position, not by name.{cure}"
            )
    return lines


def _network_of(checkpoint: Checkpoint | None) -> str:
    if checkpoint is None:
        return "the network that was saved, in a MONAI bundle network_def of configs/inference.json"
    network = checkpoint.config["network"]
    return f"that run: {network['name']} {network['args'] or ''}".rstrip()


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
        self.channels = plan.channels
        self.crops = (
            crop_preparation(scheme, size, config.train.foreground_by) if for_training else None
        )
        self.description = _description(config, plan, for_training=for_training)

    def __call__(self, case: Case) -> Prepared:
        """The prepared case; `blank` names its channels that hold one value in every voxel.

        Raises:
            UserError: If its files are damaged or do not fit the config.
            RunFailedError: With the case's id, if a transform fails or memory runs out.
        """
        try:
            prepared: Prepared = self.preprocessing(case)
        except (RuntimeError, MemoryError) as error:
            raise RunFailedError(_not_prepared(case.case_id, error)) from error
        prepared["blank"] = blank_channels(prepared["image"].numpy(), self.channels)
        if self.crops is None:
            return prepared
        ready: Prepared = self.crops(prepared)
        return {key: ready[key] for key in ("case_id", "image", "label", "blank", CROP_INDICES)}


def _not_prepared(case_id: str, error: BaseException) -> str:
    cause = error.__cause__ or error  # MONAI's own says which transform, not what was wrong
    if is_out_of_memory(cause):
        return f"{case_id}: out of memory while it was prepared. Set a larger data.spacing_mm."
    return f"{case_id} could not be prepared: {one_line(cause)}"


def _description(config: Config, plan: Plan, *, for_training: bool) -> dict[str, Any]:
    """Plain values; a setting of the data section that is added later is part of it by itself."""
    elsewhere = {"root", "layout", "num_workers"}
    elsewhere |= {"split", "val_fraction", "folds", "fold", "patient_pattern"}
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
    config: Config,
    scheme: LabelScheme,
    store: CaseStore,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> DataLoader[Prepared]:
    """This rank's patches of an epoch; all together the same, whatever `num_workers` and ranks."""
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
        batch_size=train.batch_size,
        rows=ranks.share(train.batch_size),
    )
    workers = num_loader_workers(config.data.num_workers, device, ranks)
    return DataLoader(
        PatchDataset(store, changes, seed=train.seed, annotated=annotated),
        batch_size=len(sampler.rows),
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        # Prepared cases in memory are shared by a fork; every other start would copy them.
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
        worker_init_fn=_end_in_peace if workers else None,
        # Else each new iterator takes a number from the generator that dropout draws from: one an
        # epoch without processes, one a start of the run with them.
        generator=torch.Generator(),
    )


def _end_in_peace(_worker: int) -> None:
    """SIGTERM ends a process that makes patches without an error.

    A scheduler sends it to all processes of a job. One that died of it would have torch raise an
    error in the run, which tells of the interruption itself.
    """
    signal.signal(signal.SIGTERM, lambda _signal, _frame: os._exit(0))


def num_loader_workers(setting: int | Literal["auto"], device: torch.device, ranks: Ranks) -> int:
    """Processes that make the patches of one rank, by `data.num_workers`."""
    if setting != "auto":
        return setting
    if device.type == "cpu":
        return 0
    return min(_cores_left(ranks), _MOST_LOADERS)


def _cores_left(ranks: Ranks) -> int:
    """Cores for making the patches of one rank, beside the one that it computes with."""
    return max(available_cores() // ranks.num_here - 1, 0)


def slow_loading(waited: float, num_workers: int, device: torch.device, ranks: Ranks) -> str:
    """What to tell a user whose GPU waits for patches while cores are idle; else "".

    Args:
        waited: Share of an epoch's time that went into waiting for patches.
        num_workers: Processes that make them.
        device: Where the network computes.
        ranks: Who shares the machine's cores.
    """
    spare = _cores_left(ranks) - num_workers
    if device.type == "cpu" or waited < _WAITING_TOLD or spare < 1:
        return ""
    made_by = f"{num_workers} process{'' if num_workers == 1 else 'es'}"
    return (
        f"loader {waited:.0%} of the time went into waiting for patches, which "
        f"{made_by if num_workers else 'the training process itself'} made. Set "
        f"data.num_workers: {min(max(2 * num_workers, 2), num_workers + spare)}; the result stays "
        f"the same."
    )
