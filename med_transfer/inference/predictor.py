"""A bundle at work: one scan in, one prediction out."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from med_transfer.bundle import BundleRecord, bundle_folder, load_network, read_record
from med_transfer.bundle.similar_cases import load_similar_cases
from med_transfer.cohorts import NetworkInput, network_input
from med_transfer.errors import ConfigError
from med_transfer.errors.sentence import Sentence, joined
from med_transfer.fusion import FusionScans
from med_transfer.inference.folder import BatchSettings, FolderOutcome, predict_all
from med_transfer.inference.listing import ScanWithRegion
from med_transfer.model.ensemble import Ensemble
from med_transfer.predictions.record import Prediction
from med_transfer.preprocessing import Preprocessing
from med_transfer.preprocessing.config import FIRST_CHANNEL
from med_transfer.progress import Progress, bars_unless, remark
from med_transfer.runtimes import Runtime, choose_network
from med_transfer.scans import Region, Series, Volume, read_mask, read_scan

Source = Path | str | Series | Volume
LEARNED_FROM = Sentence("the bundle has learned from this scan, whose class it knows better than those of others")

log = logging.getLogger(__name__)


class Predictor:
    """A bundle's network with its preprocessing and operating point.

    Args:
        bundle: the bundle folder, or the run folder that holds it.
        device: ``auto`` (a GPU when there is one), ``cpu`` or ``cuda``.
        public_key: PEM file of whoever must have signed the bundle; None takes an unsigned one, too, and says so.
        runtime: what computes the network: ``torch``, a runtime that the bundle was exported for, or ``auto``, the
            fastest of them.

    Raises:
        BundleError: the folder is no bundle, or incomplete, or changed, or not signed with that key; it was not
            exported for that runtime.
        ConfigError: a device that this machine does not have.
        MissingExtra: the runtime is not installed.
    """

    def __init__(
        self, bundle: Path | str, device: str = "auto", public_key: Path | None = None, runtime: Runtime = "auto"
    ) -> None:
        bundle = bundle_folder(bundle)
        self.record: BundleRecord = read_record(bundle)
        self.device = _device(device)
        self.preprocessing = Preprocessing(self.record.preprocessing)
        self._learned_from = frozenset(self.record.trained_on.sample_hashes)
        self.folder, network = bundle, load_network(bundle, public_key).to(self.device)
        self.chosen = choose_network(network, bundle, self.record.weights_sha256, runtime, self.device.type)
        self.network = self.chosen.ensemble
        self.similar_cases = load_similar_cases(bundle) if self.record.n_similar_cases else None
        made_by = self.record.model_dump_json()  # the weights' hash is in it
        if self.chosen.export is not None:
            made_by += self.chosen.export.model_dump_json() + self.chosen.precision
        self.identity = hashlib.sha256(made_by.encode()).hexdigest()

    def __repr__(self) -> str:
        """What it tells apart, from what, on what."""
        classes = ", ".join(self.record.classes)
        return f"Predictor({classes}; {self.record.backbone.name}, by {self.runtime} on {self.device})"

    @cached_property
    def torch_network(self) -> Ensemble:
        """The network as torch computes it, whose maps can be explained. Raises BundleError."""
        return self.network if self.chosen.export is None else load_network(self.folder).to(self.device)

    @property
    def runtime(self) -> Runtime:
        """What computes the network, as it can be asked for."""
        return "torch" if self.chosen.export is None else self.chosen.export.format

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
        if isinstance(mask, Path | str):
            mask = read_mask(mask, onto=scans[FIRST_CHANNEL])
        given = network_input(scans, self.preprocessing, region, mask, handcrafted=self.needs_handcrafted)
        answer, source = self.answer(given, columns), sources[FIRST_CHANNEL]
        name = str(source) if isinstance(source, Path | str) else answer.scan
        return replace(answer, scan=name, seconds=round(time.monotonic() - started, 3))

    def answer(self, given: NetworkInput, columns: Mapping[str, str] | None = None) -> Prediction:
        """The prediction for an input that was read already, for example in another process; arguments as above.

        Raises:
            InputRejected: a modality that no development scan had.
            NoAnswer: the network gave NaN or infinity.
        """
        self.record.input_envelope.require_modality(given.facts, given.path)
        image = torch.from_numpy(given.image).float()[None].to(self.device)
        with torch.inference_mode():
            features = self.network.fold_model_features(image)
            probabilities, novelty = self.network.predict_features(features, image)
        unanswered = Prediction(given.path, "", given.study_uid, given.series_uid, reason=self._notes(given))
        found = probabilities[0].cpu().double().numpy()
        answer = self.record.answer(unanswered, found, float(novelty[0]), given.facts)
        if self.similar_cases is not None:
            of_fold_models = [one.float().cpu().numpy() for one in features]
            answer = replace(answer, similar=self.similar_cases.nearest(of_fold_models, self.record.classes))
        fusion = self.record.fusion
        if fusion is None:
            return answer
        scan = FusionScans(found[None], given.handcrafted[None], [given.within], [columns or {}])
        return fusion.fuse(scan).complete(answer, 0, self.record.classes)

    def _notes(self, given: NetworkInput) -> str:
        """What there is to say of the scan, as that its answer is no test."""
        if given.sample_hash not in self._learned_from:
            return given.notes
        remark(log, "%s: %s", given.path, LEARNED_FROM, kind=LEARNED_FROM)
        return joined(given.notes, LEARNED_FROM)

    @property
    def needs_handcrafted(self) -> bool:
        """Whether its answers are made of handcrafted features, too."""
        return self.record.fusion is not None and bool(self.record.fusion.inputs.handcrafted)

    def read(self, source: Path | str | Series, series_uid: str = "") -> Volume:
        """Read a scan as the bundle's scans were read. Raises ScanError."""
        return read_scan(source, series_uid, max_gap_mm=self.record.preprocessing.max_gap_mm)

    def predict_folder(
        self,
        scans: Path | str | ScanWithRegion,
        out: Path | str,
        progress: Progress | None = None,
        settings: BatchSettings = BatchSettings(),  # noqa: B008 (frozen)
    ) -> FolderOutcome:
        """Predict every scan of a folder tree or of a table; see :func:`med_transfer.inference.folder.predict_all`.

        Without ``progress`` a terminal or notebook shows bars.
        """
        with bars_unless(progress) as progress:
            return predict_all(self, scans, Path(out), progress, settings)


def _device(name: str) -> torch.device:
    available = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    if name == "auto":
        return torch.device(available[-1])
    if name not in available:
        raise ConfigError(f"device {name!r}", expected=f"one of auto, {', '.join(available)} on this machine")
    return torch.device(name)


def load_bundle(
    bundle: Path | str, device: str = "auto", public_key: Path | None = None, runtime: Runtime = "auto"
) -> Predictor:
    """The predictor of a bundle folder. Raises as :class:`Predictor`."""
    return Predictor(bundle, device, public_key, runtime)
