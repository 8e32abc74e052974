"""One process, or several that torchrun started and that train one network together."""

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

_LONGEST_WAIT = timedelta(days=2)  # the others wait while the first one reads the scans


@dataclass(frozen=True)
class Processes:
    """This process among the others; the first one writes."""

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module with its gradients averaged over the processes."""
        return DistributedDataParallel(module) if self.count > 1 else module

    def agreed(self, values: Sequence[float]) -> list[float]:
        """The first process's values, in all of them."""
        if self.count == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return shared.tolist()

    def gathered(self, state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Every process's state, in the first one; elsewhere nothing."""
        if self.count == 1:
            return [state]
        states: list[Any] | None = [None] * self.count if self.first else None
        dist.gather_object(state, states)
        return states or []

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            dist.barrier()

    def device(self, name: str) -> torch.device:
        """A GPU of its own for each process of a machine."""
        return torch.device("cuda", get_node_local_rank()) if name == "cuda" and self.count > 1 else torch.device(name)


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes that torchrun started, or this one alone."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield Processes()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_LONGEST_WAIT)
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()
