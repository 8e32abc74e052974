"""A bundle at work: one scan in, one prediction out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import torch

from med_transfer.bundle import BundleRecord, load_network, read_record
from med_transfer.errors import ConfigError
from med_transfer.inference.folder import FolderOutcome, Progress, predict_all
from med_transfer.prediction import Prediction
from med_transfer.preprocessing import Preprocessing
from med_transfer.scans import Region, Series, Volume, read_scan


class Predictor:
    """A bundle's network with its preprocessing and operating point.

    Args:
        bundle: the bundle folder.
        device: ``auto`` (a GPU when there is one), ``cpu`` or ``cuda``.

    Raises:
        BundleError: the folder is no bundle, or incomplete, or changed.
        ConfigError: a device that this machine does not have.
    """

    def __init__(self, bundle: Path | str, device: str = "auto") -> None:
        self.record: BundleRecord = read_record(Path(bundle))
        self.device = _device(device)
        self.preprocessing = Preprocessing(self.record.preprocessing)
        self.network = load_network(bundle).to(self.device)

    def predict(
        self, source: Path | str | Series | Volume, region: Region | None = None, series_uid: str = ""
    ) -> Prediction:
        """Predict one scan.

        Args:
            source: a DICOM series folder, archive or file, a NIfTI, NRRD or MetaImage file, a Series that was found, or
                a Volume that was read.
            region: where to look, when the bundle was trained on regions of interest.
            series_uid: which series, when a folder holds several.

        Raises:
            ScanError: the scan cannot be used; the message says why.
        """
        started = time.monotonic()
        volume = source if isinstance(source, Volume) else self.read(source, series_uid)
        image = self.preprocessing(volume, region)[None].to(self.device)
        with torch.inference_mode():
            probabilities, novelty = self.network.assess(image)
        origin = volume.provenance
        name = source if isinstance(source, Path | str) else origin.path
        unanswered = Prediction(str(name), "", origin.study_uid, origin.series_uid)
        answer = self.record.answer(unanswered, probabilities[0].cpu().double().numpy(), float(novelty[0]))
        return replace(answer, seconds=round(time.monotonic() - started, 3))

    @property
    def max_gap_mm(self) -> float:
        """Up to which gap uneven slices are interpolated, as in training."""
        return self.record.preprocessing.max_gap_mm

    def read(self, source: Path | str | Series, series_uid: str = "") -> Volume:
        """Read a scan as the bundle's scans were read. Raises ScanError."""
        return read_scan(source, series_uid, max_gap_mm=self.max_gap_mm)

    def predict_folder(self, scans: Path | str, out: Path | str, progress: Progress | None = None) -> FolderOutcome:
        """Predict every scan of a folder tree or of a table; see :func:`med_transfer.inference.folder.predict_all`."""
        return predict_all(self, self.record.labels, Path(scans), Path(out), progress)


def _device(name: str) -> torch.device:
    available = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    if name == "auto":
        return torch.device(available[-1])
    if name not in available:
        raise ConfigError(f"device {name!r}", expected=f"one of auto, {', '.join(available)} on this machine")
    return torch.device(name)


def load_bundle(bundle: Path | str, device: str = "auto") -> Predictor:
    """The predictor of a bundle folder. Raises as :class:`Predictor`."""
    return Predictor(bundle, device)
