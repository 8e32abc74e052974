"""How fast a CT series is read, side by side with other readers.

    python benchmarks/reading.py [--series FOLDER] [--rounds 5] [--only uncompressed,jpeg-ls] [--count 10000]
        [--slices 200] [--readers "med_transfer,SimpleITK series"]

A series of 200 slices of 512 x 512 (a phantom with the noise of a CT, or the slices of FOLDER repeated) is written
uncompressed and compressed, and read whole by each reader in its own process, taking turns, with the files in the page
cache. Seconds are medians over the rounds: elapsed, and of processor time, with its ratio to the first reader's in the
same round. On a busy machine only the latter is meaningful, and on one core (``taskset -c 0``). Memory is the rise of
the process's peak, in volumes. A reader that is not installed is left out, one that fails is marked.
``--count`` also times the survey of that many small files.
MONAI's ITKReader needs the package itk, dcm2niix its program, and writing JPEG lossless dcmtk's dcmcjpeg.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

SLICES, ROWS, COLUMNS = 200, 512, 512
SPACING_MM = (0.7, 0.7, 1.25)
SYNTAXES = {
    "uncompressed": ExplicitVRLittleEndian,
    "rle": RLELossless,
    "jpeg-ls": JPEGLSLossless,
    "jpeg2000": JPEG2000Lossless,
    "jpeg-lossless": JPEGLosslessSV1,
    "htj2k": HTJ2KLossless,
}


# The series ---------------------------------------------------------------------------------------------------


def phantom() -> np.ndarray:
    """HU [slice, row, column]: a trunk with lungs and spine, and quantum noise of 15 HU."""
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    plane = np.full((ROWS, COLUMNS), -1000.0)
    plane[np.hypot(x / 0.9, y / 0.65) < 1] = -100
    plane[np.hypot(x / 0.84, y / 0.6) < 1] = 45
    plane[np.hypot((np.abs(x) - 0.42) / 0.3, y / 0.42) < 1] = -850
    plane[np.hypot(x / 0.09, (y - 0.4) / 0.1) < 1] = 500
    noise = np.random.default_rng(0).normal(0, 15, (SLICES, ROWS, COLUMNS)).astype(np.float32)
    return np.rint(noise + plane).astype(np.int16)


def slices_of(folder: Path | None) -> np.ndarray:
    if folder is None:
        return phantom()
    from med_transfer.scans import read_scan

    voxels = read_scan(folder).voxels
    return np.concatenate([voxels] * (SLICES // len(voxels) + 1))[:SLICES]


def write_series(folder: Path, hu: np.ndarray, syntax: str) -> None:
    folder.mkdir(parents=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    for k, image in enumerate(hu):
        dataset = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        dataset.PatientID, dataset.PatientName, dataset.Modality = "BENCHMARK", "BENCHMARK", "CT"
        dataset.InstanceNumber, dataset.SeriesNumber = k + 1, 1
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-179.2, -179.2, round(k * SPACING_MM[2], 4)]
        dataset.PixelSpacing, dataset.SliceThickness = [SPACING_MM[1], SPACING_MM[0]], SPACING_MM[2]
        dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *image.shape, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -2048
        fill_pixels(dataset, (image.astype(np.int32) + 2048).clip(0).astype(np.uint16), syntax)
        file = folder / f"{k:04d}.dcm"
        dataset.save_as(file, enforce_file_format=True)
        if syntax == JPEGLosslessSV1:
            subprocess.run(["dcmcjpeg", "+e1", file, file], check=True, capture_output=True)


def fill_pixels(dataset: Dataset, stored: np.ndarray, syntax: str) -> None:
    import imagecodecs

    encoders: dict[str, Callable[[np.ndarray], bytes | bytearray]] = {
        JPEGLSLossless: imagecodecs.jpegls_encode,
        JPEG2000Lossless: lambda image: imagecodecs.jpeg2k_encode(image, reversible=True, codecformat="j2k"),
        HTJ2KLossless: lambda image: imagecodecs.htj2k_encode(image, reversible=True),
    }
    dataset.file_meta.TransferSyntaxUID = UID(syntax) if syntax in encoders else ExplicitVRLittleEndian
    if syntax in encoders:
        dataset.PixelData = encapsulate([bytes(encoders[syntax](stored))])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.PixelData = stored.tobytes()
    if syntax == RLELossless:
        dataset.compress(RLELossless)


# The readers: each returns the volume [slice, row, column], or None if it only writes a file ----------------------


def ours(folder: Path) -> np.ndarray:
    from med_transfer.scans import read_scan

    return read_scan(folder).voxels


def monai_itk(folder: Path) -> np.ndarray:
    return _monai(folder, "ITKReader")


def monai_pydicom(folder: Path) -> np.ndarray:
    return _monai(folder, "PydicomReader")


def _monai(folder: Path, reader: str) -> np.ndarray:
    from monai.transforms.io.array import LoadImage

    return np.asarray(LoadImage(reader=reader, image_only=True)(str(folder))).transpose(2, 1, 0)


def pydicom_loop(folder: Path) -> np.ndarray:
    slices = sorted((pydicom.dcmread(path) for path in folder.iterdir()), key=lambda d: d.ImagePositionPatient[2])
    volume = np.empty((len(slices), slices[0].Rows, slices[0].Columns), np.int16)
    for k, dataset in enumerate(slices):
        stored = dataset.pixel_array.astype(np.int16)
        volume[k] = stored * np.int16(dataset.RescaleSlope) + np.int16(dataset.RescaleIntercept)
    return volume


def simpleitk(folder: Path) -> np.ndarray:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return SimpleITK.GetArrayFromImage(reader.Execute())


def dicom2nifti(folder: Path) -> None:
    from dicom2nifti.convert_dicom import dicom_series_to_nifti  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory() as out:
        dicom_series_to_nifti(str(folder), Path(out, "scan.nii"), reorient_nifti=False)


def dcm2niix(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(["dcm2niix", "-z", "n", "-o", out, str(folder)], check=True, capture_output=True)
        if not list(Path(out).glob("*.nii")):
            raise RuntimeError("no file written")


def bytes_only(folder: Path) -> None:
    for path in folder.iterdir():
        path.read_bytes()


READERS: dict[str, Callable[[Path], np.ndarray | None]] = {
    "med_transfer": ours,
    "MONAI ITKReader": monai_itk,
    "MONAI PydicomReader": monai_pydicom,
    "pydicom loop to int16": pydicom_loop,
    "SimpleITK series": simpleitk,
    "dicom2nifti": dicom2nifti,
    "dcm2niix": dcm2niix,
    "bytes only (floor)": bytes_only,
}
_NEEDS = {"MONAI ITKReader": "itk", "SimpleITK series": "SimpleITK", "dicom2nifti": "dicom2nifti"}


def installed(name: str) -> bool:
    if name == "dcm2niix":
        return shutil.which("dcm2niix") is not None
    return name not in _NEEDS or importlib.util.find_spec(_NEEDS[name]) is not None


# Measuring ----------------------------------------------------------------------------------------------------


def work(name: str, folder: Path, warm_up: Path) -> dict[str, float | str]:
    """In a process of its own: read a small series to import everything, then measure one reading."""
    reader = READERS[name]
    reader(warm_up)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = memory_kib("VmRSS")
    started, spent = time.perf_counter(), processor_seconds()
    volume = reader(folder)
    seconds, processor = time.perf_counter() - started, processor_seconds() - spent
    grown = memory_kib("VmHWM") - before
    checksum = "" if volume is None else str(int(volume.astype(np.int64).sum())) + str(volume.shape)
    volumes = grown * 1024 / (len(list(folder.iterdir())) * ROWS * COLUMNS * 2)
    return {"seconds": seconds, "processor": processor, "volumes": volumes, "checksum": checksum}


def processor_seconds() -> float:
    """Of this process and its children, ended and running (proc(5), fields 14 to 17)."""
    children = " ".join(path.read_text() for path in Path("/proc/self/task").glob("*/children")).split()
    stats = [Path("/proc", pid, "stat").read_text().rpartition(")")[2].split() for pid in ("self", *children)]
    return sum(int(ticks) for stat in stats for ticks in stat[11:15]) / os.sysconf("SC_CLK_TCK")


def memory_kib(entry: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith(f"{entry}:"))


def in_a_process(name: str, folder: Path, warm_up: Path) -> dict:
    command = [sys.executable, __file__, "--worker", name, str(folder), str(warm_up)]
    environment = os.environ | {"MED_TRANSFER_CACHE": "off"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:70]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(
    scratch: Path, hu: np.ndarray, names: list[str], readers: list[str], rounds: int
) -> dict[str, dict[str, list[dict]]]:
    results: dict[str, dict[str, list[dict]]] = {}
    for syntax in names:
        folder, small = scratch / syntax, scratch / f"{syntax}-small"
        write_series(folder, hu, SYNTAXES[syntax])
        write_series(small, hu[:4], SYNTAXES[syntax])
        bytes_only(folder)
        results[syntax] = {name: [] for name in readers}
        for _ in range(rounds):
            for name in readers:
                results[syntax][name].append(in_a_process(name, folder, small))
        shutil.rmtree(folder)
    return results


def table(results: dict[str, dict[str, list[dict]]]) -> str:
    """Medians per reader and syntax, in Markdown: seconds, processor seconds, ratio to ours, memory in volumes."""
    lines = [
        "| | " + " | ".join(results) + " |",
        "|---|" + "---|" * len(results),
    ]
    for name in next(iter(results.values())):
        cells = [_cell(results[syntax][name], next(iter(results[syntax].values()))) for syntax in results]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(runs: list[dict], own: list[dict]) -> str:
    if failed := [run["error"] for run in runs if "error" in run]:
        return f"fails ({failed[0].split(':')[0]})"
    seconds, processor, volumes = (
        statistics.median(run[key] for run in runs) for key in ("seconds", "processor", "volumes")
    )
    pairs = [run["processor"] / ours["processor"] for run, ours in zip(runs, own, strict=True) if ours.get("processor")]
    ratio = statistics.median(pairs) if pairs else float("nan")
    agree = not runs[0]["checksum"] or runs[0]["checksum"] == own[0].get("checksum")
    return f"{seconds:.3f} s, processor {processor:.2f} s ({ratio:.2f}x), {volumes:.2f}" + (
        "" if agree else ", other values"
    )


def time_survey(scratch: Path, count: int) -> str:
    from med_transfer.scans import survey

    hu = np.random.default_rng(0).integers(-1000, 1000, (count // 50, 64, 64)).astype(np.int16)
    for number in range(50):
        write_series(scratch / "many" / str(number), hu, ExplicitVRLittleEndian)
    os.environ["MED_TRANSFER_CACHE"] = str(scratch / "cache")
    seconds, n_series = [], 0
    for _ in range(2):
        started = time.perf_counter()
        n_series = len(survey(scratch / "many").series)
        seconds.append(time.perf_counter() - started)
    return f"survey of {count} files, {n_series} series: {seconds[0]:.1f} s, again {seconds[1]:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, default=SLICES, help=f"at most {SLICES}")
    parser.add_argument("--only", default=",".join(SYNTAXES))
    parser.add_argument("--readers", default=",".join(READERS), help="the others are compared with the first")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        name, folder, warm_up = arguments.worker
        print(json.dumps(work(name, Path(folder), Path(warm_up))))
        return
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as scratch:
        names = [name for name in arguments.only.split(",") if name]
        if names:
            readers = [name for name in arguments.readers.split(",") if installed(name)]
            hu = slices_of(arguments.series)[: arguments.slices]
            print(table(measure(Path(scratch), hu, names, readers, arguments.rounds)))
        if arguments.count:
            print(time_survey(Path(scratch), arguments.count))


if __name__ == "__main__":
    main()
