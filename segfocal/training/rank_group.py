"""The ranks that torchrun started: how they share a run, wait for each other, and fail together.

Two ways lead from rank to rank. Plain values go through torchrun's key-value store and are polled
for: a wait of an hour (a survey of the data, a validation) ends no process group, and a signal is
heard at once. Tensors, and what every step has to agree on, go through the process group.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from segfocal.errors import UserError
from segfocal.inference.device import resolve_device
from segfocal.training.launch import Launch
from segfocal.training.rank_warnings import RankWarnings
from segfocal.training.ranks import PeerFailedError, Ranks

T = TypeVar("T")

_STORE_TIMEOUT = timedelta(days=7)
_GROUP_TIMEOUT = timedelta(hours=2)
"""Longest wait in a step: for a loader, or for the first rank to write a checkpoint."""

_POLL_S = (0.01, 0.25)
"""Shortest and longest pause between two looks into the store."""

_GRACE_S = 30.0
"""Time the failed rank has to tell before the others leave by themselves; torchrun is quicker."""

_FAILED = "failed"


class RankGroup(Ranks):
    """Several ranks, or one, started by torchrun. Use as a context manager.

    Args:
        launch: Which of them this process is.
    """

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.rank, self.count = launch.rank, launch.world_size
        self.num_here = launch.local_world_size
        self._exchanges = 0
        self._claimed: bool | None = None
        self._announced = False
        self._ended = threading.Event()
        self.warnings = RankWarnings(self.rank)

    def __enter__(self) -> RankGroup:
        self.warnings.install()
        self._store = _store(self.launch)
        self._store.set(f"agent/{self.rank}", self.launch.agent)
        self.warnings.connect(self._is_news)
        watch = _store(self.launch, may_host=False)
        threading.Thread(target=self._watch, args=(watch,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._part(error)
        except KeyboardInterrupt:
            self._interrupted()
            raise
        self._ended.set()
        self.warnings.uninstall()
        if error is None and dist.is_initialized():
            dist.destroy_process_group()

    def agents(self) -> tuple[str, ...]:
        """Names of the torchruns that started the ranks."""
        names = {self._wait_for(f"agent/{rank}").decode() for rank in range(self.count)}
        return tuple(sorted(names))

    def announce(self, job: Any) -> None:
        """From the first rank to the others: what to do; None for nothing."""
        self._announced = job is not None
        self._store.set("job", pickle.dumps(job))

    def job(self) -> Any:
        """What the first rank announces, waiting for it however long."""
        job = pickle.loads(self._wait_for("job"))  # noqa: S301 - from our own first rank
        self._announced = job is not None
        return job

    def device(self, name: str) -> torch.device:
        """The GPU of this rank, or the CPU.

        Raises:
            UserError: If there are fewer GPUs than ranks.
        """
        device = resolve_device(name)
        if device.type != "cuda":
            return device
        if name.startswith("cuda:"):  # one rank alone may name its own
            return device
        local, have = self.launch.local_rank, torch.cuda.device_count()
        # Where a rank sees its own GPU alone (torchrun --virtual-local-rank), each is number 0.
        if local >= have or (have > 1 and self.launch.local_world_size > have):
            raise UserError(_too_few(self.launch.local_world_size, have))
        return torch.device("cuda", local)

    def connect(self, device: torch.device) -> None:
        """Together: lets tensors of the CPU and of `device` go between the ranks."""
        backend = "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            store=PrefixStore("group", _store(self.launch, may_host=False)),
            rank=self.rank,
            world_size=self.count,
            timeout=_GROUP_TIMEOUT,
        )

    def now(self) -> float:
        """Together: `time.monotonic()` of the first rank."""
        reading = torch.tensor(time.monotonic(), dtype=torch.float64)
        dist.broadcast(reading, 0)
        return reading.item()

    def any(self, flag: bool) -> bool:
        """Together: whether it is so on one rank or more."""
        number = torch.tensor(int(flag))
        dist.all_reduce(number, dist.ReduceOp.MAX)
        return bool(number)

    def exchange(self, value: T) -> list[T]:
        """Together: every rank's value, in their order; each waits however long."""
        number = self._exchanges = self._exchanges + 1
        self._store.set(f"exchange/{number}/{self.rank}", pickle.dumps(value))
        # Whoever gave to the last exchange has read all of the one before it.
        self._store.delete_key(f"exchange/{number - 2}/{self.rank}")
        return [
            pickle.loads(self._wait_for(f"exchange/{number}/{rank}"))  # noqa: S301 - our own ranks
            for rank in range(self.count)
        ]

    def to_first(self, value: T, source: int) -> T:
        """Together: the value of one rank, on the first; each other's own elsewhere."""
        cpu = torch.device("cpu")
        if source == 0 or self.rank not in (0, source):
            return value
        if self.rank == source:
            dist.send_object_list([value], 0, device=cpu)
            return value
        received: list[Any] = [None]
        dist.recv_object_list(received, source, device=cpu)
        sent: T = received[0]
        return sent

    def once_a_machine(self, make: Callable[[], T]) -> T:
        """Together: what the first rank of each machine makes, copied to its other ranks.

        The first machine comes first, so that the others find what it left in a shared folder.
        """
        machines = self.exchange(self.launch.machine)
        leader = machines.index(self.launch.machine)
        made: T | None = None
        for turn in (True, False):
            is_ours = (leader == 0) == turn
            if is_ours and self.rank == leader:
                made = make()
            alone = machines.count(self.launch.machine) == 1
            given = self.exchange(made if is_ours and not alone else None)
            if is_ours and self.rank != leader:
                made = given[leader]
        assert made is not None
        return made

    def claim_failure(self) -> bool:
        """Whether this rank failed first, so that the telling is its own."""
        if self._claimed is None:
            try:
                self._claimed = self._store.add(_FAILED, 1) == 1
            except RuntimeError:  # the store went with its host
                self._claimed = self.is_first
        return self._claimed

    def _is_news(self, warning: str) -> bool:
        try:
            first: bool = self._store.add(f"warning/{warning}", 1) == 1
        except RuntimeError:  # the store went with its host
            return True
        return first

    def _wait_for(self, key: str) -> bytes:
        pause_s, longest_s = _POLL_S
        while not self._store.check([key]):
            if self._store.check([_FAILED]):
                raise PeerFailedError
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, longest_s)
        value: bytes = self._store.get(key)
        return value

    def _part(self, error: BaseException | None) -> None:
        """Waits for the others, or leaves the telling to the one that failed first."""
        try:
            if error is None and self._announced:
                self.exchange(None)
        except PeerFailedError as late:
            error = late
        if isinstance(error, KeyboardInterrupt):
            self._interrupted()
        if isinstance(error, PeerFailedError):
            self._leave()
        if isinstance(error, Exception) and not self.claim_failure():
            self._leave()

    def _interrupted(self) -> None:
        """Only the first rank tells of Ctrl-C, and not where it comes of another's failure."""
        if not self.is_first:
            _end(130)
        try:
            failed = not self._claimed and self._store.check([_FAILED])
        except RuntimeError:
            failed = False
        if failed:
            _end(1)

    def _leave(self) -> None:
        """Waits for torchrun to end this rank: the first to go would take the telling one along."""
        time.sleep(2 * _GRACE_S)
        _end(1)

    def _watch(self, store: Any) -> None:
        """Ends this rank where it hangs on one that failed, on another machine perhaps."""
        failed = False
        while not failed and not self._ended.wait(1.0):
            try:
                failed = store.check([_FAILED])
            except RuntimeError:  # the store went with its host
                failed = True
        if failed and not self._claimed and not self._ended.wait(_GRACE_S):
            _end(1)


def _end(status: int) -> NoReturn:
    """Ends this rank without a word, as loader processes that torchrun ended would give one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another rank does not answer any more."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text)


def _too_few(ranks: int, have: int) -> str:
    return (
        f"torchrun started {ranks} ranks on this machine, and torch sees {have} GPUs. Use "
        f"--nproc-per-node {have}, or train.device: cpu."
    )


def _store(launch: Launch, *, may_host: bool = True) -> Any:
    """A client of the store that all ranks reach; a restart sees nothing of what was before."""
    host, port = launch.address
    hosts = may_host and launch.is_first and not launch.agent_has_store
    store = TCPStore(host, port, is_master=hosts, timeout=_STORE_TIMEOUT, wait_for_workers=False)
    return PrefixStore(f"segfocal/{launch.restarts}", store)
