"""Training in one process, or in several that torchrun started, with averaged gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import get_node_local_rank
from torch.nn.parallel import DistributedDataParallel

_LONGEST_WAIT = timedelta(days=2)  # the other processes wait while the main one reads the scans


@dataclass(frozen=True)
class ProcessGroup:
    """This process's place among those that train together; the main process, of rank 0, writes the results."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes results and reports progress."""
        return self.rank == 0

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """The module, with gradients averaged over all processes."""
        return DistributedDataParallel(module) if self.world_size > 1 else module

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """The main process's values, in every process."""
        if self.world_size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return shared.tolist()

    def gather(self, state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Every process's state, by rank, in the main process; an empty list in the others."""
        if self.world_size == 1:
            return [state]
        states: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(state, states)
        return states or []

    def barrier(self) -> None:
        """Wait until every process has reached this point."""
        if self.world_size > 1:
            dist.barrier()

    def device(self, name: str) -> torch.device:
        """The device of this name; with several processes each one gets its own GPU."""
        return (
            torch.device("cuda", get_node_local_rank())
            if name == "cuda" and self.world_size > 1
            else torch.device(name)
        )


@contextmanager
def process_group() -> Iterator[ProcessGroup]:
    """The processes that torchrun started, or this one alone."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield ProcessGroup()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_LONGEST_WAIT)
    try:
        yield ProcessGroup(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
