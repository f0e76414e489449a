"""A run from its first epoch to its last: train, validate, save, report, resume."""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch

from segfocal.checkpoint import (
    Checkpoint,
    interrupts_held,
    load_checkpoint,
    save_checkpoint,
)
from segfocal.config.load import LoadedConfig
from segfocal.errors import RunFailedError, UserError
from segfocal.inference.device import place_network, resolve_amp
from segfocal.inference.predictor import Predictor
from segfocal.metrics.case_score import CaseScore, mean_dice, summarise
from segfocal.training.blank_cases import BlankCases
from segfocal.training.build import (
    CasePreparation,
    init_from,
    make_loader,
    make_network,
    make_optimizer,
    slow_loading,
)
from segfocal.training.case_store import CaseStore
from segfocal.training.learner import Learner
from segfocal.training.losses import (
    TERM_NAMES,
    LossBackend,
    idle_settings,
    loss_backend,
    loss_terms,
    make_loss,
    refused_setting,
)
from segfocal.training.parallel import distributed, equalise_buffers, share_layers
from segfocal.training.patches import stable_seed
from segfocal.training.preflight import Plan
from segfocal.training.progress import Outcome, Progress
from segfocal.training.ranks import ALONE, Ranks
from segfocal.training.reporter import Reporter
from segfocal.training.resume import resume_from
from segfocal.training.run_folder import RunFolder, versions
from segfocal.training.schedule import Budget
from segfocal.training.stores import make_stores
from segfocal.training.validate import Sample, validate

_REPORT_S = 8.0
"""Seconds kept at the end of a budget for checkpoint, figures and report."""

_VALIDATION_SHARE = 0.15
"""Share of a wall-clock budget that validations before the last may take."""


class Session:
    """Holds the parts of a run; `run` goes through its epochs.

    Args:
        loaded: The checked config.
        plan: The checked data.
        folder: The run folder; entered before `run`.
        reporter: Where progress is told.
        started_s: `time.monotonic()` when the command began.
        weights: Checkpoint to start from (`--init-from`), or None.
        ranks: Who shares the run; each has a session of its own.

    Raises:
        UserError: If network, device or a checkpoint to resume do not fit.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        plan: Plan,
        folder: RunFolder,
        reporter: Reporter,
        *,
        started_s: float,
        weights: Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.loaded = loaded
        self.config = config = loaded.config
        self.plan = plan
        self.folder = folder
        self.reporter = reporter
        self.ranks = ranks
        self.progress = Progress()
        self._saved_epoch = 0
        self.device = ranks.device(config.train.device)
        ranks.connect(self.device)
        amp_dtype = resolve_amp(config.train.amp, self.device)
        scheme = plan.dataset.scheme
        network = make_network(config, plan)
        goes_on = folder.goes_on
        self.init_lines = []
        if weights is not None and goes_on:
            self.init_lines = [f"init   {weights} is not looked at: the run goes on with its own"]
        elif weights is not None:
            self.init_lines = init_from(network, weights, plan)
        train = config.train
        network, shared = share_layers(network, ranks, self.device, train.batch_size)
        self.init_lines += shared
        if idle := idle_settings(config.loss):
            told = f"doubt  {', '.join(idle)}: without effect on {config.loss.name}."
            self.init_lines.append(told)
        network = place_network(network, self.device)
        try:
            loss = make_loss(config.loss, scheme, plan.alpha, across_ranks=ranks.count > 1)
            loss = loss.to(self.device)
        except ValueError as error:
            raise UserError(refused_setting(str(error))) from None
        self.learner = Learner(
            network,
            loss_terms(loss),
            make_optimizer(train, network),
            train,
            self.device,
            amp_dtype,
            ranks,
        )
        self.started_s = started_s
        if goes_on:
            self._resume(load_checkpoint(folder / "last.pt"))
        patch = len(plan.channels), *train.patch_size
        self.learner.model = distributed(network, ranks, self.device, patch)
        prepare_val = CasePreparation(config, plan, for_training=False)
        self.predictor = Predictor(
            self.learner.evaluated,
            prepare_val.preprocessing,
            scheme,
            patch_size=config.train.patch_size,
            infer=config.infer.model_copy(update={"tta": "none"}),
            device=self.device,
            amp_dtype=amp_dtype,
            flip_axes=config.train.augment.flip_axes,
        )
        self._prepare_val = prepare_val
        self.budget: Budget | None = None
        self._loop_began = self._first_progress = 0.0
        self.versions = versions()

    @property
    def nothing_left(self) -> bool:
        """Whether a resumed run had already reached its end."""
        train = self.config.train
        limit_s = math.inf if train.max_minutes is None else 60 * train.max_minutes
        epoch, elapsed_s = self.progress.epoch, self.progress.elapsed_s
        return epoch > 0 and (epoch >= train.epochs or elapsed_s >= limit_s - _REPORT_S)

    def run(self) -> Outcome:
        """Trains to the end of epochs or budget.

        Raises:
            RunFailedError: If a wall-clock budget is used up before the first step.
        """
        train, plan = self.config.train, self.plan
        ranks, val_cases = self.ranks, plan.split.val
        stores = make_stores(self.config, plan, self._prepare_val, ranks, self.reporter)
        loader = make_loader(self.config, plan.dataset.scheme, stores.train, self.device, ranks)
        blank = BlankCases(ranks, self.reporter.note)
        blank.of_stores(stores)
        blank.tell()
        self.budget = budget = self._budget()
        self._loop_began = ranks.now()
        self._first_progress = budget.progress(self.learner.step, self._loop_began)
        last, first_epoch = self._finished(budget), self.progress.epoch + 1
        while not last:
            epoch = self.progress.epoch + 1
            loader.sampler.epoch = epoch  # type: ignore[attr-defined]
            # Dropout and the like: a function of (seed, epoch), whatever ran before.
            torch.manual_seed(stable_seed(train.seed, "epoch", epoch))
            with self.reporter.epoch(epoch, train.epochs, train.steps_per_epoch) as on_step:
                means = self.learner.run_epoch(blank.of_batches(loader), budget, on_step)
            if epoch == first_epoch and ranks.is_first:
                hint = slow_loading(means.waited, loader.num_workers, self.device, ranks)
                if hint:
                    self.reporter.note(hint)
            self.progress.epoch = epoch
            self.progress.elapsed_s = ranks.now() - self.started_s
            last = self._finished(budget)
            summary = None
            if val_cases and (last or self._validation_due(epoch, budget)):
                scores, sample = self._validate(stores.val, blank)
                summary = summarise(scores)
                budget.reserve_s = 1.3 * self.progress.validation_s + _REPORT_S
                is_best = self._keep_best(mean_dice(summary), epoch)
                if ranks.is_first:
                    self.reporter.validated(epoch, scores, sample, is_best=is_best)
            elif last and not val_cases:
                self._save("best.pt", resume=False)
            blank.tell()
            self.progress.elapsed_s = ranks.now() - self.started_s
            if ranks.is_first:
                self.reporter.epoch_done(epoch, self.learner.step, means, summary, self.progress)
            with interrupts_held():  # what an interrupted run says is safe is what last.pt holds
                self._save("last.pt", resume=True)
                self._saved_epoch = epoch
            if ranks.is_first:
                self.reporter.epoch_saved(self.progress)
        if not self.progress.epoch:
            raise RunFailedError(
                f"train.max_minutes ({train.max_minutes:g}) was used up before the first step: "
                f"starting took {self._loop_began - self.started_s:.0f} s. Raise it."
            )
        return Outcome(self.folder.path, self.progress)

    def _finished(self, budget: Budget) -> bool:
        if self.progress.epoch >= self.config.train.epochs:
            return True
        return budget.progress(self.learner.step, self.ranks.now()) >= 1

    def _budget(self) -> Budget:
        train = self.config.train
        max_seconds = None if train.max_minutes is None else 60 * train.max_minutes
        reserve_s = 0.0
        if max_seconds is not None:
            guess = self.progress.validation_s or (0.1 * max_seconds if self.plan.split.val else 0)
            reserve_s = min(1.3 * guess + _REPORT_S, 0.5 * max_seconds)
        if self.progress.loop_began_s is None:
            self.progress.loop_began_s = self.ranks.now() - self.started_s
        return Budget(
            train.epochs * train.steps_per_epoch,
            max_seconds,
            self.started_s,
            self.started_s + self.progress.loop_began_s,
            reserve_s,
        )

    def _validation_due(self, epoch: int, budget: Budget) -> bool:
        """Every `val_every` epochs, unless a wall-clock budget cannot afford it."""
        if epoch % self.config.train.val_every:
            return False
        if budget.max_seconds is None:
            return True
        spent_s = self.progress.validations_s + self.progress.validation_s
        room_s = budget.remaining_s(self.ranks.now()) - 3 * self.progress.validation_s
        return spent_s <= _VALIDATION_SHARE * budget.max_seconds and room_s > 0

    def _validate(
        self, store: CaseStore, blank: BlankCases
    ) -> tuple[list[CaseScore], Sample | None]:
        """Scores of all cases, on every rank; the first one has the case for the picture."""
        ranks, began = self.ranks, self.ranks.now()
        equalise_buffers(self.learner.evaluated, ranks)
        own = ranks.share(len(store))
        with self.reporter.validating(len(own)) as on_case:
            scores, sample = validate(
                self.predictor,
                blank.of_cases(store[number] for number in own),
                self.plan.dataset.scheme,
                on_case=on_case,
                annotated=self.plan.annotated_targets,
            )
        told = ranks.exchange((scores, -1 if sample is None else sample.lesion_voxels))
        sizes = [size for _, size in told]
        sample = ranks.to_first(sample, sizes.index(max(sizes)))
        self.progress.validation_s = ranks.now() - began
        self.progress.validations_s += self.progress.validation_s
        return [score for scores, _ in told for score in scores], sample

    def _keep_best(self, score: float, epoch: int) -> bool:
        """Saves best.pt if this is the best validation so far; whether it is.

        While no Dice is above 0 the later epoch is: it has trained for longer.
        """
        best = self.progress.best_score
        if best > 0 and not score > best:
            return False
        self.progress.best_score, self.progress.best_epoch = score, epoch
        self._save("best.pt", resume=False)
        return True

    def _save(self, name: str, *, resume: bool) -> None:
        if not self.ranks.is_first:
            return
        plan, progress = self.plan, self.progress
        save_checkpoint(
            self.folder / name,
            Checkpoint(
                model=_plain_state(self.learner.evaluated),
                config=self.loaded.plain,
                scheme=plan.dataset.scheme,
                channels=plan.channels,
                file_channels=plan.dataset.channels,
                alpha=None if plan.alpha is None else plan.alpha.to_dict(),
                versions=self.versions,
                progress={**vars(progress), "step": self.learner.step},
                synthetic=plan.dataset.synthetic,
                resume=self.learner.resume_state() if resume else None,
                spacing_mm=plan.spacing_mm,
            ),
        )

    def _resume(self, checkpoint: Checkpoint) -> None:
        """Goes on where `last.pt` was written."""
        self.progress = resume_from(checkpoint, self.learner, self.plan, self.loaded.plain)
        self._saved_epoch = self.progress.epoch
        self.started_s -= self.progress.elapsed_s

    @property
    def loss_backend(self) -> LossBackend:
        """What computes the loss."""
        dataset = self.plan.dataset
        return loss_backend(
            self.config.loss,
            dataset.scheme,
            self.device,
            self.learner.amp_dtype or torch.float32,
            partial=any(case.annotated is not None for case in dataset.cases),
        )

    @property
    def amp_name(self) -> str:
        """Precision of the forward pass, as the config writes it."""
        names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names[self.learner.amp_dtype] if self.learner.amp_dtype else "fp32"

    @property
    def device_name(self) -> str:
        """`cpu`, or `cuda:0` and the card; of several ranks how many there are."""
        count = self.ranks.count
        if count > 1 and self.device.type == "cuda":
            return f"{count} x cuda {torch.cuda.get_device_name(self.device)}"
        if count > 1:
            return (
                f"{count} ranks on the {self.device.type} ({torch.get_num_threads()} threads each)"
            )
        if self.device.type != "cuda":
            return f"{self.device.type} ({torch.get_num_threads()} threads)"
        return f"{self.device} {torch.cuda.get_device_name(self.device)}"

    @property
    def memory_gb(self) -> float | None:
        """Largest memory taken on the GPU so far; None on the CPU."""
        if self.device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    @property
    def term_names(self) -> tuple[str, ...]:
        """The parts of the loss that are logged."""
        return TERM_NAMES[self.config.loss.name]

    def eta_s(self) -> float | None:
        """Seconds to the end at the present pace; None before there is one."""
        if self.budget is None:
            return None
        now = time.monotonic()
        done = self.budget.progress(self.learner.step, now)
        first = self._first_progress
        if done - first <= 0:
            return None
        return (1 - done) * (now - self._loop_began) / (done - first)

    @property
    def standing(self) -> str:
        """What a run that ends now can go on from."""
        epoch = self._saved_epoch
        return f"last.pt is safe (epoch {epoch})." if epoch else "No epoch was finished."


def _plain_state(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()}
