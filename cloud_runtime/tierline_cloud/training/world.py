"""The processes that train together: one by itself, or those that torchrun started.

Rule: rank 0 alone writes and decides; what depends on a clock or a disk is its word, shared.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from tierline import ConfigurationError

CPU = torch.device("cpu")
DEVICES = ("auto", "cpu", "cuda")
# The others wait while rank 0 ranks, compresses and writes.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among ``size``. With a size of 1 everything here is a no-op."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default=CPU)

    @property
    def is_writer(self) -> bool:
        return self.rank == 0

    def share(self, values: Sequence[float]) -> list[float]:
        """Rank 0's values, on every rank; as many are given on each."""
        if self.size == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.broadcast(told, src=0)
        result: list[float] = told.tolist()
        return result

    def total(self, values: Sequence[float]) -> list[float]:
        """The sums over all ranks, on every rank."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        result: list[float] = sums.tolist()
        return result

    def together(self) -> None:
        """Go on when everybody is here."""
        if self.size > 1:
            distributed.barrier()

    def averaging(self, module: nn.Module) -> nn.Module:
        """``module`` with its gradients averaged over the ranks as they come (gloo and NCCL both
        reduce around a ring)."""
        return module if self.size == 1 else DistributedDataParallel(module)


SOLO = World()


@contextmanager
def open_world(
    device: str = "auto", environment: Mapping[str, str] = os.environ
) -> Iterator[World]:
    """The world torchrun described in ``environment`` (RANK, WORLD_SIZE, LOCAL_RANK, …), or this
    process by itself. ``device`` is one of DEVICES; auto: CUDA where there is a GPU. Raises
    ConfigurationError for a device that is not there."""
    rank, size = int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1"))
    chosen = chosen_device(device, int(environment.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(device=chosen)
        return
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    distributed.init_process_group(backend, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield World(rank=rank, size=size, device=chosen)
    finally:
        distributed.destroy_process_group()
        # The group's threads end with its last reference. A trained module in a circle holds one:
        # left to the interpreter's end, they abort the process (pytorch #190489, #179291).
        gc.collect()


def chosen_device(name: str, local_rank: int = 0) -> torch.device:
    """The device to train on: with several processes on one machine, a GPU each."""
    if name not in DEVICES:
        raise ConfigurationError(f"device {name!r} is none of {', '.join(DEVICES)}")
    count = torch.cuda.device_count()
    if name == "cpu" or (name == "auto" and not count):
        return CPU
    if local_rank >= count:
        raise ConfigurationError(
            f"device {name}: process {local_rank} of this machine needs a GPU of its own, and "
            f"there are {count}; start fewer processes or use --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)
