"""Predictor: a loaded bundle that turns one scan into one prediction."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from med_transfer.bundle import BundleRecord, bundle_folder, load_network, read_record
from med_transfer.bundle.similar_cases import load_similar_cases
from med_transfer.cohorts import NetworkInput, network_input
from med_transfer.errors import ConfigError, UsageError, given_path
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
from med_transfer.scans.region import given_region
from med_transfer.scans.voxel_checks import require_usable

Source = Path | str | Series | Volume
LEARNED_FROM = Sentence("the bundle was trained on this scan, so its answer here is better than on new scans")

log = logging.getLogger(__name__)


class Predictor:
    """A bundle's network with its preprocessing and operating point.

    Args:
        bundle: the bundle folder, or the run folder that holds it.
        device: ``auto`` (a GPU if there is one), ``cpu`` or ``cuda``.
        public_key: PEM file of the public key that the bundle must be signed with; None also accepts an unsigned
            bundle, with a warning.
        runtime: what computes the network: ``torch``, a runtime that the bundle was exported for, or ``auto`` for the
            fastest of them.

    Raises:
        BundleError: the folder is not a bundle, or is incomplete, changed, not signed with that key, or not exported
            for that runtime.
        ConfigError: this machine does not have the device, or the device cannot use the runtime.
        MissingExtra: the runtime is not installed.
    """

    def __init__(
        self,
        bundle: os.PathLike[str] | str,
        device: str = "auto",
        public_key: Path | str | None = None,
        runtime: Runtime = "auto",
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
        made_by = self.record.model_dump_json()  # contains the hash of the weights
        if self.chosen.export is not None:
            made_by += self.chosen.export.model_dump_json() + self.chosen.precision
        self.identity = hashlib.sha256(made_by.encode()).hexdigest()

    def __repr__(self) -> str:
        """Show the classes, backbone, runtime and device."""
        classes = ", ".join(self.record.classes)
        return f"Predictor({classes}; {self.record.backbone.name}, by {self.runtime} on {self.device})"

    @cached_property
    def torch_network(self) -> Ensemble:
        """The network as computed by torch, which heat maps need. Raises BundleError."""
        return self.network if self.chosen.export is None else load_network(self.folder).to(self.device)

    @property
    def runtime(self) -> Runtime:
        """The runtime that computes the network, never ``auto``."""
        return "torch" if self.chosen.export is None else self.chosen.export.format

    def predict(
        self,
        source: Source | Mapping[str, Source],
        region: Region | None = None,
        series_uid: str = "",
        *,
        mask: Volume | Path | str | None = None,
        columns: Mapping[str, object] | None = None,
    ) -> Prediction:
        """Predict one case, of one scan or of one scan per channel.

        Args:
            source: a DICOM series folder, archive or file, a NIfTI, NRRD or MetaImage file, a Series found by a search,
                or a Volume. If the input has several channels, a mapping from column to source:
                ``{"scan": ..., "scan_arterial": ...}``.
            region: region of interest, if the bundle uses one; None: the box around the mask.
            series_uid: the series to use if a folder holds several.
            mask: mask of the finding, as a file or Volume; also used by a fusion for handcrafted features.
            columns: clinical columns by name, for a fusion that uses them: texts as in the table, or numbers. None and
                an empty string are a missing value.

        Raises:
            ScanError: a scan cannot be used, or a channel has no scan; the message says why.
            UsageError: something was passed that the bundle does not read: a scan of another column, a region or mask
                where the network does not look at one, or clinical columns without a fusion that uses some.
        """
        started = time.monotonic()
        sources = source if isinstance(source, Mapping) else {FIRST_CHANNEL: source}
        self._refuse_unread(sources, region, mask)
        self._refuse_unread_columns(columns)
        scans = {
            column: one if isinstance(one, Volume) else self.read(one, series_uid if column == FIRST_CHANNEL else "")
            for column, one in sources.items()
        }
        if mask is not None and not isinstance(mask, Volume):
            mask = read_mask(mask, onto=scans[FIRST_CHANNEL])
        for one in scans.values():
            require_usable(one.voxels, one.provenance.path)  # a Volume that a caller made was never checked
        as_in_table = {name: "" if value is None else str(value).strip() for name, value in (columns or {}).items()}
        answer, source = self.predict_read(scans, region, mask, as_in_table), sources[FIRST_CHANNEL]
        name = str(source) if isinstance(source, Path | str) else answer.scan
        return replace(answer, scan=name, seconds=round(time.monotonic() - started, 3))

    def _refuse_unread(self, sources: Mapping[str, object], region: object, mask: object) -> None:
        """Refuse, as the command does, what would change nothing. Raises UsageError."""
        config = self.preprocessing.config
        if FIRST_CHANNEL not in sources or not set(sources) <= set(config.columns):
            raise UsageError(
                f"scans named {', '.join(map(str, sources)) or '(none)'}",
                where="source",
                expected=f"one for each of {', '.join(config.columns)}",
            )
        if region is not None:
            given_region(region)
        if config.region != "roi" and not self.needs_handcrafted and (region is not None or mask is not None):
            raise UsageError(
                "a mask or region, which would change nothing",
                where="mask" if region is None else "region",
                expected=f"none: {config.region_sentence}",
            )

    def _refuse_unread_columns(self, columns: object) -> None:
        """Raise UsageError for columns where none is used; beside a column that is, others are as in a table."""
        if columns is None:
            return
        if not isinstance(columns, Mapping):
            found = f"found an object of type {type(columns).__name__}"
            raise UsageError(found, where="columns", expected="a mapping from name to text or number")
        fusion = self.record.fusion
        if columns and not (fusion and fusion.inputs.columns):
            without = "the bundle has no fusion" if fusion is None else "the bundle's fusion uses no columns"
            found = f"{', '.join(map(str, columns))}, which would change nothing"
            raise UsageError(found, where="columns", expected=f"none: {without}")

    def predict_read(
        self, scans: Mapping[str, Volume], region: Region | None, mask: Volume | None, columns: Mapping[str, str]
    ) -> Prediction:
        """Predict a case of a table or study whose scans have been read; a region that nothing looks at is ignored.

        Raises:
            ScanError: see :meth:`predict`.
        """
        given = network_input(scans, self.preprocessing, region, mask, handcrafted=self.needs_handcrafted)
        return self.answer(given, columns)

    def answer(self, given: NetworkInput, columns: Mapping[str, str] | None = None) -> Prediction:
        """Predict an input that has been read already, for example in another process.

        Args:
            given: the network's input, with what else is known of the scan.
            columns: see :meth:`predict`.

        Raises:
            InputRejected: no development scan had this modality.
            NoAnswer: the network's output is NaN or infinite.
        """
        self.record.input_envelope.require_modality(given.facts, given.path)
        image = torch.from_numpy(given.image).float()[None].to(self.device)
        with torch.inference_mode():
            features = self.network.fold_model_features(image)
            probabilities, novelty = self.network.predict_features(features, image)
        unanswered = Prediction(given.path, "", given.study_uid, given.series_uid, reason=self._notes(given))
        found = probabilities[0].numpy()
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
        """Remarks on the scan, including one if it is a training scan, whose prediction is no test of the bundle."""
        if given.sample_hash not in self._learned_from:
            return given.notes
        remark(log, "%s: %s", given.path, LEARNED_FROM, kind=LEARNED_FROM)
        return joined(given.notes, LEARNED_FROM)

    @property
    def needs_handcrafted(self) -> bool:
        """Whether its predictions also use handcrafted features."""
        return self.record.fusion is not None and bool(self.record.fusion.inputs.handcrafted)

    def read(self, source: Path | str | Series, series_uid: str = "") -> Volume:
        """Read a scan as the bundle's training scans were read. Raises ScanError."""
        return read_scan(source, series_uid, max_gap_mm=self.record.preprocessing.max_gap_mm)

    def predict_folder(
        self,
        scans: Path | str | ScanWithRegion,
        out: Path | str,
        progress: Progress | None = None,
        settings: BatchSettings = BatchSettings(),  # noqa: B008 (frozen)
    ) -> FolderOutcome:
        """Predict every scan of a folder tree or of a table; see :func:`med_transfer.inference.folder.predict_all`.

        Without ``progress``, bars are shown in a terminal or notebook.
        """
        with bars_unless(progress) as progress:
            return predict_all(self, scans, given_path(out, "out", "an output folder"), progress, settings)


def _device(name: str) -> torch.device:
    available = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    if name == "auto":
        return torch.device(available[-1])
    if name not in available:
        raise ConfigError(f"device {name!r}", expected=f"one of auto, {', '.join(available)} on this machine")
    return torch.device(name)


def load_bundle(
    bundle: os.PathLike[str] | str,
    device: str = "auto",
    public_key: Path | str | None = None,
    runtime: Runtime = "auto",
) -> Predictor:
    """Load a bundle. Arguments and errors as for :class:`Predictor`."""
    return Predictor(bundle, device, public_key, runtime)
