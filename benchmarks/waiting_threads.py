"""How long a network's threads should spin before they sleep, on free cores and on cores shared with other processes.

    python benchmarks/waiting_threads.py > table.md

resnet18-w32 with random weights: a forward pass of 16 x 16 x 16 and of 64 x 96 x 96 voxels, and a training step of 8
scans of 16 x 32 x 32, with as many threads as there are cores. *Others*: counting processes per core.
Medians of milliseconds; each cell is a process of its own. Prints Markdown.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from med_transfer.backbones import load_backbone
from med_transfer.model.classifier import Classifier
from med_transfer.processor import cores

WAITING = {
    "OpenMP's own": {"GOMP_SPINCOUNT": ""},
    "3,000 turns": {"GOMP_SPINCOUNT": "3000"},
    "none": {"GOMP_SPINCOUNT": "0"},
}


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    work()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        taken.append(1000 * (time.perf_counter() - started))
    return statistics.median(taken)


def measure() -> None:
    """Print three figures."""
    torch.manual_seed(0)
    network = Classifier(load_backbone("resnet18-w32", scratch=True, seed=0).encoder, 2).eval()
    small, large, batch = (
        torch.rand(n, 1, *shape) for n, shape in ((1, [16] * 3), (1, [64, 96, 96]), (8, [16, 32, 32]))
    )
    with torch.inference_mode():
        forward = [milliseconds(lambda: network(small), 50), milliseconds(lambda: network(large), 3)]
    network.train()
    print(*forward, milliseconds(lambda: network(batch).sum().backward(), 5))


@contextlib.contextmanager
def others(count: int) -> Iterator[None]:
    counting = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in counting:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--others", type=int, nargs="+", default=[0, 1, 3])
    chosen = parser.parse_args()
    print("| others a core | threads spin | 16³, ms | 64 x 96 x 96, ms | training step, ms |\n" + "| -- " * 5 + "|")
    for a_core in chosen.others:
        for name, environment in WAITING.items():
            kept = {
                key: value for key, value in (os.environ | environment).items() if value and key != "OMP_NUM_THREADS"
            }
            with others(a_core * cores()):
                command = [sys.executable, "-c", "import torch; import waiting_threads as w; w.measure()"]
                answer = subprocess.run(command, env=kept, cwd=Path(__file__).parent, check=True, capture_output=True)
            figures = " | ".join(f"{float(figure):.0f}" for figure in answer.stdout.split())
            print(f"| {a_core} | {name} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
