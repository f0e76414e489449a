"""How torchrun started this process: its rank among how many, on which machine, by which agent."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segfocal.config.load import LoadedConfig

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets for every process; a scheduler that sets some of them is not torchrun."""


@dataclass(frozen=True)
class Launch:
    """One of the processes that torchrun started.

    Attributes:
        rank: Its number among all of them.
        world_size: How many there are.
        local_rank: Its GPU.
        local_world_size: How many there are on this machine.
        machine: Number of the machine.
        restarts: How often torchrun has started them anew.
        address: Host and port of the store that all of them reach.
        agent_has_store: Whether torchrun holds that store; else rank 0 has to.
        agent: Names the torchrun that started it, the same after a restart and unlike any other.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    machine: int
    restarts: int
    address: tuple[str, int]
    agent_has_store: bool
    agent: str

    @property
    def is_first(self) -> bool:
        """Whether it checks, writes and prints for all."""
        return self.rank == 0


def read_launch(environment: Mapping[str, str]) -> Launch | None:
    """What torchrun wrote into the environment; None where it did not start this process.

    Example:
        >>> read_launch({"WORLD_SIZE": "4"}) is None
        True
    """
    if not all(environment.get(name) for name in _NEEDED):
        return None
    number = {name: int(environment[name]) for name in _NEEDED if name != "MASTER_ADDR"}
    machine = environment.get("GROUP_RANK") or number["RANK"] // number["LOCAL_WORLD_SIZE"]
    return Launch(
        rank=number["RANK"],
        world_size=number["WORLD_SIZE"],
        local_rank=number["LOCAL_RANK"],
        local_world_size=number["LOCAL_WORLD_SIZE"],
        machine=int(machine),
        restarts=int(environment.get("TORCHELASTIC_RESTART_COUNT") or 0),
        address=(environment["MASTER_ADDR"], number["MASTER_PORT"]),
        agent_has_store=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        agent=_agent(environment),
    )


def _agent(environment: Mapping[str, str]) -> str:
    """The folder of torchrun's logs, which it makes anew for itself; else its process."""
    log = environment.get("TORCHELASTIC_ERROR_FILE")  # FOLDER/attempt_1/0/error.json
    made = str(Path(log).parents[2]) if log and len(Path(log).parents) > 3 else f"{os.getppid()}"
    return f"{socket.gethostname()}:{made}"


def check_launch(loaded: LoadedConfig, launch: Launch) -> None:
    """Refuses what a config asks for and so many ranks cannot do.

    Raises:
        UserError: In one line, with the cure.
    """
    config, count = loaded.config, launch.world_size
    if count == 1:
        return
    if config.train.batch_size < count:
        raise loaded.error(
            "train.batch_size",
            f"is shared out over the ranks: expected at least one patch for each of {count}, got "
            f"{config.train.batch_size}. Raise it, or start fewer with --nproc-per-node.",
        )
    if config.loss.top_k is not None:
        raise loaded.error(
            "loss.top_k",
            f"chooses among the voxels of one process, and torchrun started {count}. Set it to "
            f"null, or train in one process.",
        )
    if config.train.device.startswith("cuda:"):
        raise loaded.error(
            "train.device",
            f"{config.train.device} is one GPU, and torchrun started {count} ranks, each with one "
            f"of its own. Set auto or cuda; CUDA_VISIBLE_DEVICES says which GPUs there are.",
        )
    if config.data.cache == "ram" and launch.local_world_size > 1:
        raise loaded.error(
            "data.cache",
            f"ram would hold every case {launch.local_world_size} times, once a rank. Set auto or "
            f"disk: files that all ranks of a machine map, so that memory holds each case once.",
        )
