"""Training patches, each a function of (seed, epoch, case, crop) and of nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from segfocal.training.blank_cases import packed
from segfocal.transforms.rand_patch import RandPatchd

PatchKey = tuple[int, int, int]
"""(epoch, number of the patch in the epoch, number of the case)."""


def stable_seed(*parts: int | str) -> int:
    """A 32-bit seed that depends on every part and on no process, platform or Python version.

    Example:
        >>> stable_seed(0, "crop", 1) != stable_seed(0, "crop", 2)
        True
    """
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "little")


class PatchDataset(Dataset[dict[str, Any]]):
    """Prepared cases; an item is one augmented patch.

    Args:
        cases: Prepared cases (`crop_preparation`): image, label, crop indices, case_id, and the
            names of their blank channels where there are any.
        augmentation: Random crop and changes, reseeded for every item.
        seed: The run's seed.
        annotated: For each case, whether it says anything of each network output (partial labels);
            None where all were annotated for everything.
    """

    def __init__(
        self,
        cases: Sequence[Mapping[Any, Any]],
        augmentation: RandPatchd,
        *,
        seed: int,
        annotated: Sequence[Sequence[bool]] | None = None,
    ) -> None:
        self.cases = cases
        self.augmentation = augmentation
        self.seed = seed
        # Beside the prepared cases, which a cache may keep longer than a declaration lasts.
        partial = annotated is not None and not all(map(all, annotated))
        self.annotated = torch.tensor(annotated) if partial else None

    def __getitem__(self, key: PatchKey) -> dict[str, Any]:
        """The patch of that (epoch, number, case)."""
        epoch, number, index = key
        case = self.cases[index]
        self.augmentation.set_random_state(
            seed=stable_seed(self.seed, epoch, case["case_id"], number)
        )
        patch = self.augmentation(case)
        item = {name: patch[name] for name in ("image", "label", "case_id")}
        item["blank"] = packed(case.get("blank", ()))
        if self.annotated is not None:
            item["annotated"] = self.annotated[index]
        return item


class EpochSampler(Sampler[PatchKey]):
    """The patches of one epoch: cases in shuffled rounds, so that each is seen equally often.

    The rounds run on through the epochs: with 12 cases and 100 patches an epoch, no case waits
    longer than two rounds.

    Args:
        num_cases: Cases to draw from.
        num_patches: Patches in an epoch.
        seed: The run's seed.
        batch_size: Patches of a batch; with `rows`.
        rows: Which of each batch to draw, for a rank that has a share of it; None for all.
    """

    def __init__(
        self,
        num_cases: int,
        num_patches: int,
        *,
        seed: int,
        batch_size: int = 1,
        rows: range | None = None,
    ) -> None:
        self.num_cases = num_cases
        self.num_patches = num_patches
        self.seed = seed
        self.batch_size = batch_size
        self.rows = range(batch_size) if rows is None else rows
        self.epoch = 0

    def __len__(self) -> int:
        batches, rest = divmod(self.num_patches, self.batch_size)
        return batches * len(self.rows) + sum(row < rest for row in self.rows)

    def __iter__(self) -> Iterator[PatchKey]:
        first = self.epoch * self.num_patches
        order, current_round = np.empty(0, dtype=np.int64), -1
        for number in range(self.num_patches):
            round_, place = divmod(first + number, self.num_cases)
            if round_ != current_round:
                seed = stable_seed(self.seed, "round", round_)
                order = np.random.default_rng(seed).permutation(self.num_cases)
                current_round = round_
            if number % self.batch_size in self.rows:
                yield self.epoch, number, int(order[place])
