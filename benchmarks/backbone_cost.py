"""What one scan costs in each backbone: multiply-adds, seconds and memory of a forward pass on the CPU.

    OMP_NUM_THREADS=2 python benchmarks/backbone_cost.py > table.md
    OMP_NUM_THREADS=2 python benchmarks/backbone_cost.py ct-fm swin-ssl-5k --shape 96 96 96 --repeats 5

Each network gets one scan of the shape used in its pretraining, or of 96 x 96 x 96 voxels if none is prescribed, with
random weights, which do not affect the cost. Multiply-adds are counted without computing, on PyTorch's meta device.
Networks above ``--most`` multiply-adds are only counted. Memory is the rise of the process's peak during the pass,
weights not included; Linux only. Prints Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from pathlib import Path

import torch

from med_transfer.backbones import BackboneSpec, backbones, find_backbone, load_backbone
from med_transfer.backbones.cost import cost_shape, multiply_adds

Triple = tuple[int, int, int]
GIGA = 1e9


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    print(_machine(arguments), end="\n\n")
    print("| backbone | parameters, million | shape | multiply-adds, 10⁹ | seconds | memory, MB |")
    print("|---|---|---|---|---|---|")
    for name in arguments.names or backbones():
        spec = find_backbone(name)
        shape = tuple(arguments.shape) if arguments.shape else cost_shape(spec)
        print(row(spec, shape, arguments), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="backbones; default: all")
    parser.add_argument("--shape", type=int, nargs=3, metavar=("DEPTH", "HEIGHT", "WIDTH"), help="one shape for all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--most", type=float, default=500.0, help="10⁹ multiply-adds; larger networks are not timed")
    return parser.parse_args()


def row(spec: BackboneSpec, shape: Triple, arguments: argparse.Namespace) -> str:
    count = multiply_adds(spec, shape) / GIGA
    seconds, memory = "", ""
    if count <= arguments.most:
        seconds, memory = measured(spec, shape, arguments.repeats)
    size = " x ".join(map(str, shape))
    return f"| {spec.name} | {spec.parameters / 1e6:.1f} | {size} | {count:.0f} | {seconds} | {memory} |"


def measured(spec: BackboneSpec, shape: Triple, repeats: int) -> tuple[str, str]:
    """Median seconds after one warm-up pass, and the memory of that first pass."""
    encoder = load_backbone(spec.name, scratch=True).encoder.eval()
    x = torch.rand(1, spec.input.channels, *shape, generator=torch.Generator().manual_seed(0))
    memory = ""
    seconds = []
    with torch.inference_mode():
        for repeat in range(repeats + 1):
            before = _start_peak() if repeat == 0 else None
            started = time.perf_counter()
            encoder(x)
            seconds.append(time.perf_counter() - started)
            if before is not None:
                memory = f"{(_kilobytes('VmHWM') - before) / 1024:.0f}"
    return f"{statistics.median(seconds[1:] or seconds):.2f}", memory


def _start_peak() -> int | None:
    """Reset the peak of the resident memory; its value in kilobytes, None where it is unknown."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    reset.write_text("5")
    return _kilobytes("VmHWM")


def _kilobytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def _machine(arguments: argparse.Namespace) -> str:
    cpuinfo = Path("/proc/cpuinfo")
    model = platform.processor()
    if cpuinfo.exists():
        model = next((x.split(":")[1].strip() for x in cpuinfo.read_text().splitlines() if "model name" in x), model)
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return (
        f"`{command}`: {model}, {os.cpu_count()} cores, {arguments.threads} thread(s), load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, torch {torch.__version__}; float32, median of {arguments.repeats}."
    )


if __name__ == "__main__":
    main()
