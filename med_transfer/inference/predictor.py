"""A bundle at work: one scan in, one prediction out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from med_transfer.bundle import BundleRecord, bundle_folder, load_network, read_record
from med_transfer.cohorts.handcrafted import FEATURE_NAMES, features
from med_transfer.errors import ConfigError
from med_transfer.fusion import FusionScans
from med_transfer.inference.folder import FolderOutcome, ScanWithRegion, predict_all
from med_transfer.predictions.record import Prediction
from med_transfer.preprocessing import Preprocessing
from med_transfer.preprocessing.config import FIRST_CHANNEL
from med_transfer.progress import Progress, silent
from med_transfer.scans import Region, Series, Volume, read_mask, read_scan, region_of_mask

Source = Path | str | Series | Volume


class Predictor:
    """A bundle's network with its preprocessing and operating point.

    Args:
        bundle: the bundle folder, or the run folder that holds it.
        device: ``auto`` (a GPU when there is one), ``cpu`` or ``cuda``.
        public_key: PEM file of whoever must have signed the bundle; None takes an unsigned one, too, and says so.

    Raises:
        BundleError: the folder is no bundle, or incomplete, or changed, or not signed with that key.
        ConfigError: a device that this machine does not have.
    """

    def __init__(self, bundle: Path | str, device: str = "auto", public_key: Path | None = None) -> None:
        bundle = bundle_folder(bundle)
        self.record: BundleRecord = read_record(bundle)
        self.device = _device(device)
        self.identity = hashlib.sha256(self.record.model_dump_json().encode()).hexdigest()  # the weights' hash is in it
        self.preprocessing = Preprocessing(self.record.preprocessing)
        self.network = load_network(bundle, public_key).to(self.device)

    def predict(
        self,
        source: Source | Mapping[str, Source],
        region: Region | None = None,
        series_uid: str = "",
        *,
        mask: Volume | Path | str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Prediction:
        """Predict one scan, or one case of several.

        Args:
            source: a DICOM series folder, archive or file, a NIfTI, NRRD or MetaImage file, a Series that was found, or
                a Volume that was read. Where the input has several channels, each one's by its column:
                ``{"scan": ..., "scan_arterial": ...}``.
            region: where to look, when the bundle was trained on regions of interest; None: the box around the mask.
            series_uid: which series, when a folder holds several.
            mask: of the finding, a file or read already; also for the handcrafted features of a bundle with a fusion.
            columns: clinical columns by name, for a fusion that has some; an empty text is a missing value.

        Raises:
            ScanError: a scan cannot be used, or a channel has none; the message says why.
        """
        started = time.monotonic()
        sources = source if isinstance(source, Mapping) else {FIRST_CHANNEL: source}
        scans = {
            column: one if isinstance(one, Volume) else self.read(one, series_uid if column == FIRST_CHANNEL else "")
            for column, one in sources.items()
        }
        volume, source = scans[FIRST_CHANNEL], sources[FIRST_CHANNEL]
        if isinstance(mask, Path | str):
            mask = read_mask(mask, onto=volume)
        if mask is not None and region is None:
            region = region_of_mask(mask)
        image = self.preprocessing(scans, region)[None].to(self.device)
        with torch.inference_mode():
            probabilities, novelty = self.network.predict(image)
        origin = volume.provenance
        name = source if isinstance(source, Path | str) else origin.path
        notes = "; ".join(dict.fromkeys(note for scan in scans.values() for note in scan.verdict.notes))
        unanswered = Prediction(str(name), "", origin.study_uid, origin.series_uid, reason=notes)
        found = probabilities[0].cpu().double().numpy()
        answer = self.record.answer(unanswered, found, float(novelty[0]))
        answer = self._fused(answer, found, volume, region, mask, columns or {})
        return replace(answer, seconds=round(time.monotonic() - started, 3))

    def _fused(
        self,
        answer: Prediction,
        probabilities: NDArray[np.float64],
        volume: Volume,
        region: Region | None,
        mask: Volume | None,
        columns: Mapping[str, str],
    ) -> Prediction:
        """The answer with its fused probabilities, where the bundle has a fusion and the scan all that it needs."""
        fusion = self.record.fusion
        if fusion is None:
            return answer
        handcrafted = np.full((1, len(FEATURE_NAMES)), np.nan)
        if fusion.inputs.handcrafted:
            found = features(volume, region, mask)
            handcrafted[0] = [found[name] for name in FEATURE_NAMES]
        within = "mask" if mask is not None else "whole" if region is None else "roi"
        scan = FusionScans(probabilities[None], handcrafted, [within], [columns])
        return fusion.fuse(scan).complete(answer, 0, self.record.classes)

    def read(self, source: Path | str | Series, series_uid: str = "") -> Volume:
        """Read a scan as the bundle's scans were read. Raises ScanError."""
        return read_scan(source, series_uid, max_gap_mm=self.record.preprocessing.max_gap_mm)

    def predict_folder(
        self, scans: Path | str | ScanWithRegion, out: Path | str, progress: Progress = silent
    ) -> FolderOutcome:
        """Predict every scan of a folder tree or of a table; see :func:`med_transfer.inference.folder.predict_all`."""
        fused = self.record.fusion is not None
        return predict_all(self, self.record.labels, scans, Path(out), progress, fused=fused)


def _device(name: str) -> torch.device:
    available = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    if name == "auto":
        return torch.device(available[-1])
    if name not in available:
        raise ConfigError(f"device {name!r}", expected=f"one of auto, {', '.join(available)} on this machine")
    return torch.device(name)


def load_bundle(bundle: Path | str, device: str = "auto", public_key: Path | None = None) -> Predictor:
    """The predictor of a bundle folder. Raises as :class:`Predictor`."""
    return Predictor(bundle, device, public_key)
