"""Scans that someone or something has damaged, each with what a reader may make of it.

Each function fills a folder and returns what a volume read without a remark must be: the original voxels and affine, or
None if nothing may be read without a remark. Random choices come from ``rng``.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import random
import re
import socket
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from dicom_series import as_image, hounsfield, plane_affine, write_series
from enhanced_objects import enhanced, item
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

Truth = tuple[np.ndarray, np.ndarray] | None
HU, AFFINE = hounsfield((6, 20, 24)), plane_affine()
GOOD: Truth = (HU, AFFINE)
NAMES = ("slice{:03d}.dcm", "IM{:04d}", "1.2.826.0.{}", "I{}.MR.dcm")
TEXTS = ("0", "-1", "1e-9", "1e9", "1e308", "-1e308", "nan", "inf", "1,5", "x", "", "1e-320")
SLOPES = ("0", "nan", "inf", "1e308", "1e-320", "1,5", "x", "")  # others are possible, if unlikely
ORIENTATIONS = (
    *("0\\0\\0\\0\\0\\0", "1\\0\\0\\1\\0\\0", "1\\0\\0\\-1\\0\\0", "1\\0\\0\\0\\1", "", "nan\\nan\\nan\\nan\\nan\\nan"),
    *("1\\0\\0\\0.7\\0.7\\0", "2\\0\\0\\0\\2\\0", "inf\\0\\0\\0\\1\\0", "1e-9\\0\\0\\0\\1e-9\\0", "1\\0\\0\\0\\0\\0"),
    *("0\\0\\0\\0\\1\\0", "1e308\\0\\0\\0\\1e308\\0", "1\\0\\0\\0\\1\\0\\0", "a\\b\\c\\d\\e\\f"),
)
DUMMIES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    lambda file, rng: b"",
    lambda file, rng: bytes(rng.randrange(1, 5000)),
    lambda file, rng: file[: rng.randrange(1, len(file))],
    lambda file, rng: b"<html><body>404 Not Found</body></html>" * rng.randrange(1, 9),
    lambda file, rng: _flipped(file, rng.randrange(128 * 8, 132 * 8)),
    lambda file, rng: rng.randbytes(rng.randrange(1, 5000)),
)


def _flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _with_text(path: Path, tag: tuple[int, int], text: str) -> None:
    """Put another text in the place of an element's value (explicit VR, little endian)."""
    content = path.read_bytes()
    start = content.index(struct.pack("<HH", *tag) + b"DS") + 6
    (length,) = struct.unpack_from("<H", content, start)
    value = text.encode() + b" " * (len(text) % 2)
    path.write_bytes(content[:start] + struct.pack("<H", len(value)) + value + content[start + 2 + length :])


@cache
def _slices(modality: str) -> tuple[bytes, ...]:
    """The files of a good series, encoded once: to encode them takes longer than to read what was made of them."""
    with tempfile.TemporaryDirectory() as folder:
        return tuple(path.read_bytes() for path in write_series(Path(folder), HU, AFFINE, modality=modality))


def _series(folder: Path, rng: random.Random) -> list[Path]:
    name, slices = rng.choice(NAMES), _slices(rng.choice(("CT", "MR")))
    folder.mkdir(parents=True)
    paths = [folder / name.format(k) for k in range(len(slices))]
    for path, content in zip(paths, slices, strict=True):
        path.write_bytes(content)
    return paths


def _some(paths: list[Path], rng: random.Random) -> list[Path]:
    """One at an end, one anywhere, several, all."""
    return rng.choice(([paths[0]], [paths[-1]], [rng.choice(paths)], rng.sample(paths, rng.randint(2, 5)), paths))


def orientation(folder: Path, rng: random.Random) -> Truth:
    """Directions of rows and columns that are none, in some slices or all."""
    text = rng.choice(ORIENTATIONS)
    for path in _some(_series(folder, rng), rng):
        _with_text(path, (0x0020, 0x0037), text)
    return None


def spacing(folder: Path, rng: random.Random) -> Truth:
    """Lengths, places and rescaling that cannot be, in some slices or all."""
    tag, parts = rng.choice((((0x28, 0x30), 2), ((0x20, 0x32), 3), ((0x28, 0x1053), 1)))
    texts = SLOPES if tag == (0x28, 0x1053) else TEXTS
    text = "\\".join(rng.choice(texts) for _ in range(parts))
    for path in _some(_series(folder, rng), rng):
        _with_text(path, tag, text)
    return GOOD if tag == (0x28, 0x1053) and not text else None  # an empty slope is 1, as it was


def dummy(folder: Path, rng: random.Random) -> Truth:
    """A slice, at an end mostly, in whose place is something else."""
    paths = _series(folder, rng)
    path = rng.choice((paths[0], paths[-1], paths[rng.randrange(6)]))
    path.write_bytes(rng.choice(DUMMIES)(path.read_bytes(), rng))
    return None


def functional(folder: Path, rng: random.Random) -> Truth:
    """An enhanced object whose makers' own sequences say other things under the standard names."""

    def decoy() -> Dataset:
        return item(
            ImagePositionPatient=[rng.uniform(-99, 99) for _ in range(3)],
            ImageOrientationPatient=[0, 1, 0, 1, 0, 0],
            PixelSpacing=[rng.uniform(0.1, 9), rng.uniform(0.1, 9)],
            RescaleSlope=rng.uniform(1, 9),
            RescaleIntercept=rng.uniform(-99, 99),
        )

    def change(dataset: Dataset) -> None:
        groups = [*dataset.PerFrameFunctionalGroupsSequence, *dataset.SharedFunctionalGroupsSequence]
        for group in rng.sample(groups, rng.randint(1, len(groups))):
            number = rng.choice((0x0019, 0x0021, 0x2005, 0x5201))
            group.add_new((number, 0x0010), "LO", "SOMEONE")
            group.add_new((number, 0x1001 + rng.randrange(64)), "SQ", Sequence([decoy()]))
            for macro in rng.sample([element for element in group if element.VR == "SQ"], 1):
                macro.value[0].add_new((0x2005, 0x0010), "LO", "SOMEONE")
                macro.value[0].add_new((0x2005, 0x140F), "SQ", Sequence([decoy()]))

    enhanced(folder / "e.dcm", HU, AFFINE, order=rng.sample(range(6), 6), ct=rng.random() < 0.5, change=change)
    return GOOD


def detached(folder: Path, rng: random.Random) -> Truth:
    """A header that names voxels elsewhere, that are no file, or that are not enough."""
    folder.mkdir(parents=True)
    secret = folder.parent / "secret.raw"
    secret.write_bytes(HU.tobytes())
    (folder / "inside.raw").write_bytes(HU.tobytes()[: -rng.randint(1, 99)])
    (folder / "link.raw").symlink_to(secret)
    (folder / "up").symlink_to(folder.parent)
    os.mkfifo(folder / "pipe.raw")
    place = rng.choice(
        (
            *("../secret.raw", str(secret), "link.raw", "up/secret.raw", "/dev/zero", "/dev/stdin", "/etc/passwd", "."),
            *("pipe.raw", "inside.raw", "x/../../secret.raw", "http://127.0.0.1/x.raw", "secret%n%n%n.raw 1 6 1"),
            *("../secret%s.raw 1 6 1", "%99999d 1 6 1", "inside%d.raw 1 999999999 1", "LIST", "LIST\n../secret.raw"),
            *("a" * 5000, "inside.raw\0.raw", "..\\secret.raw", "file://" + str(secret), "", "LOCAL"),
        )
    )
    suffix = rng.choice(("nrrd", "nhdr", "mha", "mhd"))
    write = _nrrd_header if suffix in ("nrrd", "nhdr") else _metaimage_header
    packed = rng.random() < 0.3
    (folder / f"a.{suffix}").write_bytes(write(place, packed).encode("latin-1"))
    return None


def _nrrd_header(place: str, packed: bool) -> str:
    return (
        "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 24 20 6\nendian: little\n"
        "space directions: (0.7,0,0) (0,0.9,0) (0,0,2.5)\n"
        f"encoding: {'gzip' if packed else 'raw'}\ndata file: {place}\n"
    )


def _metaimage_header(place: str, packed: bool) -> str:
    return (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = {packed}\nDimSize = 24 20 6\n"
        f"ElementSpacing = 0.7 0.9 2.5\nElementType = MET_SHORT\nElementDataFile = {place}\n"
    )


def packed(folder: Path, rng: random.Random) -> Truth:
    """A compressed volume with one bit changed, cut off, or with something behind it."""
    folder.mkdir(parents=True)
    suffix = rng.choice(("nrrd", "nhdr", "mha", "mhd", "nii.gz"))
    path = folder / f"a.{suffix}"
    SimpleITK.WriteImage(as_image(HU, AFFINE), path, useCompression=True)
    stored = next((one for one in folder.iterdir() if one != path), path)
    content = stored.read_bytes()
    start = {"nrrd": content.find(b"\n\n") + 2, "mha": content.find(b"LOCAL") + 6}.get(suffix, 0)
    how = rng.randrange(6)
    if how < 4:
        content = _flipped(content, rng.randrange(start * 8, len(content) * 8))
    elif how == 4:
        content = content[: rng.randrange(start, len(content))]
    else:
        content += rng.randbytes(rng.randint(1, 99))
    stored.write_bytes(content)
    return GOOD


def lengths(folder: Path, rng: random.Random) -> Truth:
    """A volume file with a length, a place or a size that cannot be."""
    folder.mkdir(parents=True)
    suffix = rng.choice(("nii", "nii.gz", "nrrd", "mha"))
    path = folder / f"a.{suffix}"
    if suffix.startswith("nii"):
        nibabel.Nifti1Image(HU.T, np.diag([-0.7, -0.9, 2.5, 1.0])).to_filename(path)
        content = bytearray(gzip.decompress(path.read_bytes()) if suffix == "nii.gz" else path.read_bytes())
        if rng.random() < 0.5:  # srow_x .. srow_z, their own column
            at = 280 + 20 * rng.randrange(3)
            content[at : at + 4] = struct.pack("<f", rng.choice((0, 1e-9, 1e9, 3e38, math.nan, math.inf)))
        else:  # dim
            at = 42 + 2 * rng.randrange(3)
            content[at : at + 2] = struct.pack("<h", rng.choice((0, -1, 32767, 30000, -32768)))
        path.write_bytes(gzip.compress(content) if suffix == "nii.gz" else content)
        return None
    SimpleITK.WriteImage(as_image(HU, AFFINE), path, useCompression=rng.random() < 0.5)
    fields = {"nrrd": (rb"space directions: \(", rb"sizes: "), "mha": (rb"ElementSpacing = ", rb"DimSize = ")}[suffix]
    texts = [text for text in TEXTS if text not in ("", "-1")]  # an axis may point the other way
    value = rng.choice((*texts, "9999999", "4294967295", "18446744073709551615")).encode()
    content = path.read_bytes()
    path.write_bytes(re.sub(rb"(" + rng.choice(fields) + rb")[^ ,]+", rb"\g<1>" + value, content, count=1))
    return None


def special(folder: Path, rng: random.Random) -> Truth:
    """A good series, and beside it what is no file, or a strange one."""
    _series(folder / "ct", rng)
    for number in range(rng.randint(1, 4)):
        _strange(rng.choice((folder, folder / "ct")), f"x{number}", rng)
    return GOOD


def _strange(folder: Path, name: str, rng: random.Random) -> None:
    path = folder / (name + rng.choice(("", ".dcm", ".nii.gz", ".mhd", ".zip", "\n", "\udcff.dcm")))
    kind = rng.randrange(9)
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        path.symlink_to(path)
    elif kind == 2:
        path.symlink_to("/nowhere/x.dcm")
    elif kind == 3:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/stdin", "/dev/null", "/proc/self/mem", "/")))
    elif kind == 4:
        path.mkdir()
    elif kind == 5:
        path.joinpath(*["d" * rng.randint(1, 20)] * rng.randint(1, 120)).mkdir(parents=True)
    elif kind == 6:
        path.symlink_to(folder, target_is_directory=True)
    elif kind == 7:
        with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(folder):  # a socket's name must be short
            listener.bind(os.fsencode(path.name))
    else:
        path.mkdir(0o000)


KINDS: dict[str, Callable[[Path, random.Random], Truth]] = {
    kind.__name__: kind for kind in (orientation, spacing, dummy, functional, detached, packed, lengths, special)
}
