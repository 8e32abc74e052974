"""``predict`` killed at random moments, itself or one of its reading processes, until it ends by itself.

    python benchmarks/predict_kills.py --scans 100 --kills 60 --seed 0

The small CT of many_scans.py as NIfTI, one of twenty damaged and one of ten a copy of its neighbour, in two reading
processes. SIGKILL hits the command in two of three rounds (its reading processes are left behind), one reading process
in the third, once the table has a random number of rows. At any time, all rows of a scan must be alike, or the first
tell that its reading failed and the second be its retry; and every row must be that of an undisturbed run, or tell that
its reading process ended. The last call is not disturbed: afterwards the table must be the undisturbed one, column
``seconds`` aside, and no reading process may be left.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import inference
import many_scans
import psutil

Rows = dict[str, dict[str, str]]


def begin(bundle: Path, scans: Path, out: Path) -> subprocess.Popen[bytes]:
    words = ["predict", str(bundle), str(scans), "-o", str(out), "--workers", "2", "--pictures", "0"]
    command = [sys.executable, "-m", "med_transfer", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def rows_of(out: Path) -> Rows:
    """Whole rows of the table so far, by scan: the last one of each; a last line without its end is not written yet."""
    file = out / "predictions.csv"
    text = file.read_text() if file.is_file() else ""
    by_scan: Rows = {}
    for row in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):
        row["seconds"] = ""
        before = by_scan.get(row["scan"], row)
        assert before == row or before["status"] == "failed", f"two rows: {before}, {row}"
        by_scan[row["scan"]] = row
    return by_scan


def spoil(scans: Path) -> None:
    files = sorted(scans.iterdir())
    for file in files[::20]:
        file.write_bytes(file.read_bytes()[:300])
    for file, neighbour in zip(files[5::10], files[6::10], strict=False):
        shutil.copyfile(neighbour, file)


def disturb(process: subprocess.Popen[bytes], out: Path, n_rows: int, reader: bool) -> bool:
    """Kill once the table has that many rows, or a fifth of a second later; whether there was something to kill."""
    while process.poll() is None and len(rows_of(out)) < n_rows:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 0.2))
    victims = psutil.Process(process.pid).children(recursive=True) if reader and process.poll() is None else [process]
    hit = process.poll() is None and bool(victims)
    if hit:
        random.choice(victims).kill()
    process.wait()
    return hit


def left_behind() -> list[int]:
    """Reading processes whose parent is gone, ten seconds later."""
    time.sleep(10)
    processes = psutil.process_iter(["cmdline", "ppid"])
    readers = [process for process in processes if "isolation.child" in " ".join(process.info["cmdline"] or ())]
    return [process.pid for process in readers if process.info["ppid"] == 1]


def undisturbed(bundle: Path, scans: Path, out: Path) -> Rows:
    """The table of a call that nothing disturbs; its code says that some scans are damaged."""
    code = begin(bundle, scans, out).wait()
    assert code == 1, f"it ended with code {code}"
    return rows_of(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=300)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    random.seed(chosen.seed)
    inference.SHAPE = (16, 16, 16)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bundle = inference.write_bundle(folder / "bundle")
        many_scans.write_scans(folder / "scans", chosen.scans)
        spoil(folder / "scans")
        expected = undisturbed(bundle, folder / "scans", folder / "undisturbed")
        print(f"undisturbed: {len(expected)} rows", flush=True)
        hits, ended, cut, rounds = {"predict": 0, "reading process": 0}, 0, 0, 0
        out = folder / "out"
        while sum(hits.values()) < chosen.kills:
            reader = sum(hits.values()) % 3 == 2
            process = begin(bundle, folder / "scans", out)
            hit = disturb(process, out, random.randint(len(rows_of(out)), len(expected)), reader)
            hits["reading process" if reader else "predict"] += hit
            rows = rows_of(out)
            cut += len(rows) < len(expected)
            other = {scan: row for scan, row in rows.items() if row != expected[scan]}
            assert all(row["status"] == "failed" for row in other.values()), other
            if len(rows) == len(expected):  # the next round begins another table
                assert undisturbed(bundle, folder / "scans", out) == expected, "the table differs"
                shutil.rmtree(out)
                ended += 1
            rounds += 1
        assert undisturbed(bundle, folder / "scans", out) == expected, "the table differs"
        assert not left_behind(), "a reading process is left"
        killed = ", ".join(f"{count} of {what}" for what, count in hits.items())
        print(f"{killed}; {cut} of {rounds} tables were cut, {ended + 1} are whole and equal to the undisturbed one")


if __name__ == "__main__":
    main()
