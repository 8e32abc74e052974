"""Reads thousands of damaged scans in a process of bounded memory and reports the outcome of each.

    python tests/scans/fuzzing.py FOLDER FIRST_SEED KIND=COUNT ...

Prints one JSON line per kind: how many were read, read with a remark, refused, or ended the process that read them, and
every seed with any other outcome. For the kinds in hostile.py the original content is known: anything else that is read
without a remark is wrong.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import hostile
import nibabel
import numpy as np
import pydicom
import SimpleITK
from dicom_series import as_image, hounsfield, plane_affine, write_series

from med_transfer.errors import ScanAborted, ScanError
from med_transfer.scans import Volume, read_scan, survey
from med_transfer.scans.isolation import isolated

MEMORY_BYTES = 6 << 30
SLOW_SECONDS = 5.0  # of computing
HANGING_SECONDS = 120  # of waiting
EXPECTED = ("read", "warned", "refused", "aborted")
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


def write_damaged(kind: str, files: list[bytes], folder: Path, rng: random.Random) -> None:
    folder.mkdir(parents=True)
    hit = rng.sample(range(len(files)), rng.randint(1, len(files)))
    suffix = {"nifti": ".nii", "nrrd": ".nrrd", "mha": ".mha"}.get(kind, "")
    for number, content in enumerate(files):
        (folder / f"{number}{suffix}").write_bytes(damaged(content, rng) if number in hit else content)


def outcome(folder: Path, check: Callable[[Volume], str]) -> str:
    """``read``, ``warned``, ``refused``, ``aborted`` by the worker that read it, or what went wrong."""
    signal.alarm(HANGING_SECONDS)
    started = time.process_time()
    try:
        for series in survey(folder).series:
            str(series.verdict)
        word = check(isolated(read_scan, folder, where=folder))
    except ScanAborted:
        word = "aborted"
    except ScanError as error:
        word = "refused" if "DOE^JANE" not in str(error) and "\n" not in str(error) else "talkative"
    except MemoryError:
        word = "memory"
    except Exception as error:
        word = f"{type(error).__name__}: {error}"[:200]
    finally:
        signal.alarm(0)
    return word if time.process_time() - started < SLOW_SECONDS else f"slow, then {word}"


def anything(volume: Volume) -> str:
    """Of bytes changed by chance nobody knows what they mean."""
    return "read" if np.isfinite(volume.affine).all() else "no place"


def compare(volume: Volume, truth: hostile.Truth) -> str:
    if (
        truth is not None
        and np.array_equal(volume.voxels, truth[0])
        and np.allclose(volume.affine, truth[1], atol=1e-3)
    ):
        return "read"
    return "warned" if volume.verdict.reasons else f"other voxels or place, {volume.verdict}"


def hang(*_: object) -> None:
    raise TimeoutError("hangs")


def remove(folder: Path) -> None:
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            if not Path(parent, name).is_symlink():
                Path(parent, name).chmod(0o700)
    shutil.rmtree(folder)


def main(kind: str, first: int, count: int, scratch: Path) -> None:
    files = [] if kind in hostile.KINDS else bases(kind, scratch / "base" / kind)
    counts: Counter[str] = Counter()
    wrong: dict[int, str] = {}
    for seed in range(first, first + count):
        rng, folder = random.Random(f"{kind} {seed}"), scratch / "case"
        if kind in hostile.KINDS:
            word = outcome(folder, partial(compare, truth=hostile.KINDS[kind](folder, rng)))
        else:
            write_damaged(kind, files, folder, rng)
            word = outcome(folder, anything)
        counts[word if word in EXPECTED else "wrong"] += 1
        if word not in EXPECTED:
            wrong[seed] = word
        remove(folder)
    sys.stdout.write(json.dumps({"kind": kind, "counts": counts, "wrong": wrong}) + "\n")


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGALRM, hang)
    logging.getLogger("med_transfer").addHandler(logging.NullHandler())  # our own messages are meant to be read
    warnings.simplefilter("error")  # a library's warnings would appear on the user's terminal
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for argument in sys.argv[3:]:
        name, _, number = argument.partition("=")
        main(name, int(sys.argv[2]), int(number), Path(sys.argv[1]))
