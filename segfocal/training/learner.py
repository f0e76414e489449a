"""One optimiser step after another: the part of a run that is plain PyTorch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segfocal.config.schema import TrainConfig
from segfocal.training.ranks import ALONE, PeerFailedError, Ranks
from segfocal.training.schedule import Budget, lr_factor

Terms = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], dict[str, torch.Tensor]]
"""(logits, labels, mask) to the loss's terms by name, `loss` (their weighted sum) among them."""


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; carries the batch that did it, as far as it is here.

    Args:
        step: At which step, the first being 1.
        batch: Its batch on this rank.
        cases: The cases to name; None for those of the batch.
        what: What is not finite: `Loss`, or `Weights` where the gradient of a finite loss was not.
    """

    def __init__(
        self,
        step: int,
        batch: Mapping[str, Any],
        cases: Sequence[str] | None = None,
        what: str = "Loss",
    ) -> None:
        super().__init__(f"{what.lower()} not finite at step {step}")
        self.what = what
        self.step = step
        self.batch = dict(batch)
        self.cases = list(batch["case_id"] if cases is None else cases)


@dataclass(frozen=True)
class EpochMeans:
    """Means over the steps of an epoch.

    Attributes:
        terms: Of each term of the loss.
        steps: How many there were.
        lr: Learning rate of the last one.
        steps_per_s: Of all of them.
        waited: Share of the time that went into waiting for batches, the first step's left out.
    """

    terms: dict[str, float]
    steps: int
    lr: float
    steps_per_s: float
    waited: float = 0.0


@dataclass
class Learner:
    """Network, loss and optimiser, and how a batch becomes a step.

    Attributes:
        network: Maps images to logits.
        terms: The loss and its parts.
        optimizer: Over the network's parameters.
        train: The settings of the run.
        device: Where it computes.
        amp_dtype: Precision of the forward pass; None is float32.
        ranks: Who shares each batch.
        step: Optimiser steps taken.
        model: What an image goes through to train: the network, or DDP around it.
    """

    network: nn.Module
    terms: Terms
    optimizer: torch.optim.Optimizer
    train: TrainConfig
    device: torch.device
    amp_dtype: torch.dtype | None = None
    ranks: Ranks = ALONE
    step: int = 0
    model: nn.Module = field(init=False)
    ema: AveragedModel | None = field(init=False, default=None)
    scaler: torch.amp.GradScaler = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.network
        if self.train.ema_decay > 0:
            average = get_ema_multi_avg_fn(self.train.ema_decay)  # type: ignore[no-untyped-call]
            self.ema = AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        fp16 = self.amp_dtype == torch.float16 and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)

    @property
    def evaluated(self) -> nn.Module:
        """The network to validate and to save: the moving average, where there is one."""
        return self.network if self.ema is None else self.ema.module

    def run_epoch(
        self,
        batches: Iterable[Mapping[str, Any]],
        budget: Budget,
        on_step: Callable[[int, dict[str, float]], None],
    ) -> EpochMeans:
        """Steps through one epoch, or until the budget is spent; at least one step.

        Args:
            batches: `image` (B, C, *S) and `label` (B, 1, *S) or (B, *S), `accumulate` per step,
                and where labels are partial `annotated` (B, K), one bool per case and output.
            budget: Where the learning rate stands; ends the epoch early when it is spent.
            on_step: Called with the number of the step in the epoch and its terms.

        Raises:
            NonFiniteLossError: If a loss is NaN or infinite; no step is taken with it. Or if the
                weights are so at the end: the next loss would be, but last.pt would hold them.
        """
        self.network.train()
        sums: dict[str, float] = {}
        began, taken, lr = time.monotonic(), 0, 0.0
        went_on, waited_s = began, 0.0
        iterator = iter(batches)
        # One step at least: a clock that runs out between two epochs must not make an empty one.
        while taken == 0 or self._progress(budget) < 1:
            asked = time.monotonic()
            group = [b for _, b in zip(range(self.train.accumulate), iterator, strict=False)]
            if not group:
                break
            if taken == 0:
                went_on = time.monotonic()  # starting the processes that make batches is no wait
            else:
                waited_s += time.monotonic() - asked
            lr = self._set_lr(self._progress(budget))
            terms = self._optimise(group)
            last_batch = group[-1]
            self.step += 1
            taken += 1
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            on_step(taken, terms)
        if taken and not _are_finite(self.network):
            raise self._non_finite(last_batch, is_ours=False, what="Weights")
        means = {name: total / taken for name, total in sums.items()}
        now = time.monotonic()
        rate, waited = taken / max(now - began, 1e-9), waited_s / max(now - went_on, 1e-9)
        return EpochMeans(means, taken, lr, rate, waited)

    def _progress(self, budget: Budget) -> float:
        """Share of the run that is done. Only a wall-clock budget makes ranks ask for the time."""
        now_s = 0.0 if budget.max_seconds is None else self.ranks.now()
        return budget.progress(self.step, now_s)

    def _set_lr(self, progress: float) -> float:
        lr = self.train.lr * lr_factor(progress, self.train.schedule, self.train.warmup_fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _optimise(self, group: list[Mapping[str, Any]]) -> dict[str, float]:
        """One optimiser step over `accumulate` batches."""
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for number, batch in enumerate(group, 1):
            with self._gradients_of_one_rank(number < len(group)):
                terms = self._loss(batch)
                self.scaler.scale(terms["loss"] / len(group)).backward()  # type: ignore[no-untyped-call]
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / len(group)
        if self.train.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), self.train.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update_parameters(self.network)
        return sums

    def _loss(self, batch: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """The terms of a batch.

        Raises:
            NonFiniteLossError: On one rank, that whose logits are not finite.
            PeerFailedError: On the others.
        """
        image = batch["image"].to(self.device, non_blocking=True)
        if image.dim() == 5:
            image = image.contiguous(memory_format=torch.channels_last_3d)
        label = batch["label"].to(self.device, non_blocking=True)
        enabled = self.amp_dtype is not None
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=enabled):
            logits = self.model(image)
        terms = self.terms(logits, label, annotation_mask(batch.get("annotated"), logits))
        if self.ranks.any(not torch.isfinite(terms["loss"])):
            raise self._non_finite(batch, is_ours=not bool(torch.isfinite(logits).all()))
        return terms

    def _non_finite(
        self, batch: Mapping[str, Any], *, is_ours: bool, what: str = "Loss"
    ) -> Exception:
        """What to raise: one rank tells, that with the logits to blame where there is one."""
        told = self.ranks.exchange((is_ours, list(batch["case_id"])))
        guilty = [rank for rank, (is_its, _) in enumerate(told) if is_its]
        if self.ranks.rank != (guilty or [0])[0]:
            return PeerFailedError()
        cases = None if guilty else [case for _, cases in told for case in cases]
        # counted as in metrics.csv: a loss belongs to the step that was not taken
        step = self.step if what == "Weights" else self.step + 1
        return NonFiniteLossError(step, batch, cases, what)

    def _gradients_of_one_rank(self, wanted: bool) -> contextlib.AbstractContextManager[None]:
        """Within it gradients are added up here, to be averaged over the ranks with the last."""
        if wanted and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def resume_state(self) -> dict[str, Any]:
        """Everything but the evaluated weights that going on needs; tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
        }

    def load_resume_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `resume_state`."""
        self.network.load_state_dict(state["network"])
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
        elif self.ema is not None:
            self.ema.module.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.step = int(state["step"])


def _are_finite(network: nn.Module) -> bool:
    """Whether all weights are numbers."""
    norms = [weight.detach().norm() for weight in network.parameters()]
    return not norms or bool(torch.stack(norms).isfinite().all())


def annotation_mask(annotated: torch.Tensor | None, logits: torch.Tensor) -> torch.Tensor | None:
    """The loss's mask for partly annotated cases: constant over a case's voxels, no memory taken.

    Args:
        annotated: Bool `(B, K)` on the CPU: whether the case says anything of the output; or None.
        logits: `(B, K, *S)`.

    Returns:
        A view `(B, K, *S)` on the logits' device; None where every case says everything.

    Example:
        >>> mask = annotation_mask(torch.tensor([[True, False]]), torch.zeros(1, 2, 3))
        >>> mask.tolist()
        [[[True, True, True], [False, False, False]]]
    """
    if annotated is None or bool(annotated.all()):
        return None
    mask = annotated.to(logits.device, non_blocking=True)
    return mask.view(*mask.shape, *(1,) * (logits.dim() - 2)).expand_as(logits)
