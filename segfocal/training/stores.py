"""Prepared cases of a run, training and validation: read once a machine, whatever its ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from segfocal.config.schema import Config
from segfocal.training.build import CasePreparation
from segfocal.training.case_cache import CaseCache, default_folder, remove_unused
from segfocal.training.case_store import CaseStore
from segfocal.training.memory import available_bytes
from segfocal.training.preflight import Plan
from segfocal.training.ranks import Ranks
from segfocal.training.reporter import Reporter


class Stores(NamedTuple):
    """Cases to train on and cases to validate on."""

    train: CaseStore
    val: CaseStore


def make_stores(
    config: Config, plan: Plan, prepare_val: CasePreparation, ranks: Ranks, reporter: Reporter
) -> Stores:
    """Together: the cases of a run, and a line about where they are.

    Where several ranks share a machine nothing is held in the memory of one: all map the same
    files, and the system holds their pages once.

    Args:
        config: The run's config.
        plan: Its data.
        prepare_val: Prepares a case for validation.
        ranks: Who trains.
        reporter: Told of the cases read and of what a user should know.
    """
    data = config.data
    folder = data.cache_dir or default_folder()
    ram_gb = data.cache_ram_gb
    num_cases = len(plan.split.train) + len(plan.split.val)

    def make(prepare: CasePreparation, ids: tuple[str, ...], budget_bytes: int | None) -> CaseStore:
        return CaseStore(
            plan.cases(ids),
            prepare,
            mode=data.cache,
            cache=CaseCache(folder, prepare.description, reporter.note),
            budget_bytes=0 if ranks.num_here > 1 else budget_bytes,
            on_case=on_case,
            on_note=reporter.note,
        )

    def make_both() -> Stores:
        if data.cache in ("auto", "disk"):
            remove_unused(folder)
        train = make(
            CasePreparation(config, plan, for_training=True),
            plan.split.train,
            None if ram_gb is None else int(ram_gb * 2**30),
        )
        return Stores(train, make(prepare_val, plan.split.val, available_bytes() // 4))

    on_case: Callable[[], None]
    with reporter.loading(num_cases) as on_case:
        stores = ranks.once_a_machine(make_both)
    held = f"; validation cases: {stores.val.summary()}" if plan.split.val else ""
    if ranks.is_first:
        reporter.note(f"cache  training cases: {stores.train.summary()}{held}")
    return stores
