"""Many studies at once: whether the hospital node loses any, its receiving speed against storescp, and its memory.

python benchmarks/hospital_load.py --studies 200 --slices 100 --associations 4
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from hospital_faults import scan, worker
from peers import echoscu, free_port, until

from med_transfer.hospital.queue import Queue

_TICKS = os.sysconf("SC_CLK_TCK")


def seconds_to_send(port: int, called: str, scans: list[list[Path]], repeat: int) -> float:
    """Every association sends its scan repeatedly, each time as a new study of a new patient."""
    started = time.monotonic()
    invented = ["--repeat", str(repeat), "+IR", str(len(scans[0])), "+IS", "1", "+IP", "1"]
    senders = []
    for files in scans:
        command = ["storescu", "-aet", "CT1", "-aec", called, *invented, "127.0.0.1", str(port), *map(str, files)]
        senders.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    failed = [sender for sender in senders if sender.wait()]
    assert not failed, f"{len(failed)} senders failed"
    return time.monotonic() - started


def memory_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def cpu_seconds(process: int) -> float:
    """Processor seconds of a process and of its children that have ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def storescp_rate(folder: Path, scans: list[list[Path]], repeat: int) -> float:
    """Images per second."""
    folder.mkdir()
    port = free_port()
    command = ["storescp", "--fork", "-od", str(folder), "-aet", "SCP", str(port)]
    scp = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: echoscu(port, called="SCP"))
        seconds = seconds_to_send(port, "SCP", scans, repeat)
    finally:
        scp.terminate()
        scp.wait()
    count = repeat * sum(map(len, scans))
    assert len(list(folder.iterdir())) == count
    return count / seconds


def load(folder: Path, scans: list[list[Path]], turns: int, repeat: int) -> None:
    """Node and storescp take turns, so that other work on the machine affects both alike."""
    port, per_turn = free_port(), repeat * sum(map(len, scans))
    ours, theirs, memory = [], [], []
    with worker(folder / "node", port, 1) as node:
        before = cpu_seconds(node.pid)
        for turn in range(turns):
            theirs.append(storescp_rate(folder / f"scp{turn}", scans, max(1, repeat // 5)))
            ours.append(per_turn / seconds_to_send(port, "MEDTRANSFER", scans, repeat))
            memory.append(memory_mib(node.pid))
            print(
                f"turn {turn + 1}: node {ours[-1]:.0f}, storescp {theirs[-1]:.0f} images/s, {memory[-1]:.0f} MiB",
                flush=True,
            )
            subprocess.run(["rm", "-r", str(folder / f"scp{turn}")], check=True)
        milliseconds = 1000 * (cpu_seconds(node.pid) - before) / (turns * per_turn)
    queue = Queue(folder / "node" / "queue.sqlite")
    files, studies = queue.files(), queue.studies()
    there = sum((folder / "node" / file).stat().st_size > 0 for file in files)
    whole = sum(len(queue.instances(study.id)) == len(scans[0]) for study in studies)
    ratios = np.array(ours) / np.array(theirs)
    print(f"{there} of {turns * per_turn} images on the disk and in the queue; {whole} of {len(studies)} studies whole")
    print(f"receive: node {np.median(ours):.0f}, storescp {np.median(theirs):.0f} images/s; ", end="")
    print(
        f"ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f}), {milliseconds:.1f} ms CPU an image"
    )
    print(f"memory after each turn: {', '.join(f'{one:.0f}' for one in memory)} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--size", type=int, default=256, help="rows and columns")
    parser.add_argument("--associations", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    chosen = parser.parse_args()
    repeat = chosen.studies // chosen.associations // chosen.turns
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        scans = [scan(folder / f"scan{n}", n, chosen.slices, chosen.size) for n in range(chosen.associations)]
        load(folder, scans, chosen.turns, repeat)


if __name__ == "__main__":
    main()
