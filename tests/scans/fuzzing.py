"""Reads thousands of damaged scans in a process of bounded memory and tells what became of each.

    python tests/scans/fuzzing.py KIND FIRST_SEED COUNT FOLDER

Prints one JSON line: how many were read, how many refused, and every seed that ended in anything else.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import SimpleITK
from dicom_series import as_image, hounsfield, plane_affine, write_series

from med_transfer.errors import ScanError
from med_transfer.scans import Volume, read_scan, survey

MEMORY_BYTES = 6 << 30
SLOW_SECONDS = 5.0
LARGE = [
    "0",
    "1",
    "-1",
    "32767",
    "65535",
    "65536",
    "2147483647",
    "4294967295",
    "-2147483648",
    "1e308",
    "nan",
    "inf",
    "",
]


def bases(kind: str, folder: Path) -> list[bytes]:
    """The files of an undamaged scan, as bytes."""
    hu = hounsfield((4, 40, 33))
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "nifti":
        path = folder / "scan.nii"
        nibabel.Nifti1Image(hu.T, np.diag([1.0, 1, 2, 1])).to_filename(path)
        return [path.read_bytes()]
    if kind in ("nrrd", "mha"):
        path = folder / f"scan.{kind}"
        SimpleITK.WriteImage(as_image(hu, plane_affine()), path)
        return [path.read_bytes()]
    syntax = {"plain": None, "rle": pydicom.uid.RLELossless, "j2k": pydicom.uid.JPEG2000Lossless}[kind]

    def save(dataset, path):
        if syntax:
            dataset.compress(syntax)
        dataset.save_as(path, enforce_file_format=True)

    return [path.read_bytes() for path in write_series(folder, hu, save=save, PixelPaddingValue=-2000)]


def damaged(content: bytes, rng: random.Random) -> bytes:
    """One to four changes: bytes, lengths, numbers in text, a cut, a piece doubled or moved."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(changed)) if rng.random() < 0.3 else rng.randrange(min(len(changed), 1600))
        kind = rng.randrange(7)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f", rng.randbytes(4)])
        elif kind == 2:
            del changed[at : at + rng.randint(1, 64)]
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randint(1, 200)]
        elif kind == 4:
            del changed[rng.randrange(len(changed)) :]
        elif kind == 5:
            _change_number(changed, rng)
        else:
            changed[at : at + 2] = rng.choice([b"SQ", b"UN", b"OW", b"US", b"DS", b"\xfe\xff", b"\xe0\x7f"])
        if len(changed) < 2:
            return bytes(changed)
    return bytes(changed)


def _change_number(changed: bytearray, rng: random.Random) -> None:
    """Put an extreme value in the place of a number that the header writes as text."""
    places = [at for at in range(132, min(len(changed), 1600)) if chr(changed[at]) in "0123456789"]
    if places:
        at = rng.choice(places)
        value = rng.choice(LARGE).encode()[:8].ljust(rng.randint(1, 8))
        changed[at : at + len(value)] = value


def write_case(kind: str, files: list[bytes], folder: Path, rng: random.Random) -> Path:
    folder.mkdir(parents=True)
    hit = rng.sample(range(len(files)), rng.randint(1, len(files)))
    suffix = {"nifti": ".nii", "nrrd": ".nrrd", "mha": ".mha"}.get(kind, "")
    for number, content in enumerate(files):
        (folder / f"{number}{suffix}").write_bytes(damaged(content, rng) if number in hit else content)
    return folder


def outcome(folder: Path) -> str:
    """``read``, ``refused``, or what went wrong."""
    started = time.process_time()
    try:
        found = survey(folder)
        for series in found.series:
            str(series.verdict)
        volume = read_scan(folder)
        word = "read" if isinstance(volume, Volume) and np.isfinite(volume.affine).all() else "no volume"
    except ScanError as error:
        word = "refused" if "DOE^JANE" not in str(error) and "\n" not in str(error) else "talkative"
    except MemoryError:
        word = "memory"
    except Exception as error:
        word = f"{type(error).__name__}: {error}"[:200]
    return word if time.process_time() - started < SLOW_SECONDS else f"slow, then {word}"


def main(kind: str, first: int, count: int, scratch: Path) -> None:
    files = bases(kind, scratch / "base")
    warnings.simplefilter("error")  # a library that warns would print to the user's terminal
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    counts: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    for seed in range(first, first + count):
        folder = write_case(kind, files, scratch / "case", random.Random(f"{kind} {seed}"))
        word = outcome(folder)
        counts[word if word in ("read", "refused") else "wrong"] += 1
        if word not in ("read", "refused"):
            wrong[seed] = word
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    sys.stdout.write(json.dumps({"counts": counts, "wrong": wrong}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
