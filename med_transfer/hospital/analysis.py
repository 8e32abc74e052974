"""Analysis of a complete study: a prediction, or the reason for its absence, for each series that is analysed.

Files are read and predicted by the same code as in a batch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.valuerep import DA, TM, PersonName

from med_transfer.cohorts import without_prediction
from med_transfer.errors import ConfigError, MedTransferError, ScanAborted, ScanError, ScanNotFound
from med_transfer.errors.sentence import Sentence, files, joined
from med_transfer.explanation.settings import MapSettings
from med_transfer.hospital.config import HeatMap
from med_transfer.inference import Predictor
from med_transfer.inference.explain import ScanMap, explain_scan
from med_transfer.inference.listing import ScanToPredict, scans_to_predict
from med_transfer.predictions.record import Prediction
from med_transfer.scans import Region, Volume
from med_transfer.scans.isolation import confined
from med_transfer.scans.search.series_rules import SeriesRules, choose, may_match

log = logging.getLogger(__name__)

_PATIENT_AND_STUDY = (  # type 2 attributes that results copy, DICOM PS3.3 C.7.1.1, C.7.2.1
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
)
_KINDS: dict[str, Callable[[Any], object]] = {
    "PatientBirthDate": DA,
    "StudyDate": DA,
    "StudyTime": TM,
    "PatientSex": ("M", "F", "O", "").index,
}


@dataclass(frozen=True)
class Analysis:
    """Outcome of one series, or of several that share one refusal.

    Attributes:
        prediction: status ``ok``, or ``rejected`` with the reason.
        images: headers of its images, without pixels.
        volume: the scan as it was read; None if there is no prediction.
        refusal: code of the reason why there is no prediction; empty if there is one.
        heat: heat map; None if it was not requested or could not be computed.
    """

    prediction: Prediction
    images: tuple[Dataset, ...] = field(repr=False)
    volume: Volume | None = field(default=None, repr=False)
    refusal: str = ""
    heat: ScanMap | None = field(default=None, repr=False)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Codes of the reasons why there is no prediction, or why it abstains; empty otherwise."""
        because = self.prediction.abstained_because if self.prediction.status == "ok" else self.refusal
        return tuple(filter(None, because.split(";")))

    def with_missing_images(self, images: int) -> Analysis:
        """Return the analysis with a remark that this many images of the study were missing, if any."""
        if not images:
            return self
        remark = f"{images} of the study's images had not come when this was made"
        return replace(self, prediction=replace(self.prediction, reason=joined(self.prediction.reason, remark)))


def require_usable(predictor: Predictor, bundle: Path) -> None:
    """Raise ConfigError for a bundle that needs regions of interest or several scans per case.

    A node receives images only, without either a region or the roles of several scans.
    """
    config = predictor.preprocessing.config
    if config.region == "roi":
        raise ConfigError(
            "the network looks at regions of interest, which a PACS does not send",
            where=bundle,
            expected="a bundle that looks at the whole scan (input.region=whole), or finds its region (organ)",
        )
    if len(config.columns) > 1:
        what = f"the input is made of {len(config.columns)} scans a case, and a study does not say which they are"
        raise ConfigError(what, where=bundle, expected="a bundle of one scan a case")


def analyse(
    folder: Path, predictor: Predictor, rules: SeriesRules | None = None, heat: HeatMap = "off", others: bool = False
) -> list[Analysis]:
    """Predict a study's series: those that the rules choose, or all of them.

    Returns at least one analysis, even if only a refusal; or none if the rules choose no series and ``others`` is set.

    Args:
        folder: folder of the study's files.
        predictor: the bundle's predictor.
        rules: rules that choose series; None: every usable series.
        heat: whether to compute a heat map, and whether to check it.
        others: other bundles may predict the remaining series, and this bundle has no earlier answer to withdraw.

    Raises:
        ScanAborted: reading took too long or crashed; another attempt may succeed.
    """
    try:
        items, _ = scans_to_predict(folder, predictor.preprocessing.config)
    except ScanNotFound as error:
        return [Analysis(_refused(error.found), _headers(sorted(folder.iterdir())), refusal=type(error).__name__)]
    if all(item.series is None for item in items):  # as after a crash of the reader
        raise ScanAborted(
            Sentence("none of {files} can be read: {damage}", files=files(len(items)), damage=items[0].damage),
            where=folder,
        )
    chosen, refusals = _chosen(items, rules)
    if not chosen and others:
        return []
    if not chosen:
        return [_refusal(items, refusals, "not-chosen")]
    damaged = [item for item in chosen if item.series is None]
    answers = [_analyse(item, predictor, heat) for item in chosen if item.series is not None]
    reasons = [item.damage for item in damaged]
    return answers + ([_refusal(damaged, reasons, "UnreadableScan")] if damaged else [])


def withdrawal(folder: Path) -> Analysis:
    """A refusal that replaces the answer of a bundle no longer in use; ``folder`` holds the study's files."""
    reason = "the node does not use this bundle any more, and its earlier answer counts no longer"
    return Analysis(_refused(reason), _headers(sorted(folder.iterdir())), refusal="route-removed")


def _chosen(items: Sequence[ScanToPredict], rules: SeriesRules | None) -> tuple[list[ScanToPredict], list[str]]:
    """Return the items to predict, and the reasons why the others are not. Without rules all items are chosen.

    If the series that the rules ask for are all unusable, they are chosen nevertheless, so that the result gives the
    reason for each.
    """
    if rules is None:
        return list(items), []
    found = [(item, item.series) for item in items if item.series is not None]
    choices = choose([series for _, series in found], rules)
    chosen = [item for (item, _), choice in zip(found, choices, strict=True) if choice.chosen]
    chosen = chosen or [item for item, series in found if may_match(series, rules)]
    damaged = [item.damage for item in items if item.series is None]
    return chosen, [choice.reason for choice in choices if not choice.chosen] + damaged


def _analyse(item: ScanToPredict, predictor: Predictor, heat: HeatMap) -> Analysis:
    started, volume, mapped, refusal = time.monotonic(), None, None, ""
    try:
        with confined(item.case.path):
            scans, region, mask = item.read(predictor.preprocessing.config)
            prediction = predictor.predict_read(scans, region, mask, item.case.columns)
            mapped = _map(predictor, scans, region, prediction, heat)
        volume = scans["scan"]
    except ScanAborted:
        raise
    except ScanError as error:
        prediction, refusal = without_prediction(item.case, error), type(error).__name__
    series_uid = item.case.series_uid or prediction.series_uid
    seconds = round(time.monotonic() - started, 3)
    prediction = replace(prediction, series_uid=series_uid, seconds=seconds)
    return Analysis(prediction, _headers(_files([item])), volume, refusal, mapped)


def _map(
    predictor: Predictor, scans: Mapping[str, Volume], region: Region | None, prediction: Prediction, heat: HeatMap
) -> ScanMap | None:
    """Heat map of the prediction; None if it fails, since an answer without a map is better than no answer."""
    if heat == "off":
        return None
    settings = MapSettings(draws=0) if heat == "checked" else MapSettings(draws=0, hidden=0)
    try:
        return explain_scan(predictor, scans, region, prediction, settings)
    except Exception as error:
        log.warning("no heat map: %s", error.found if isinstance(error, MedTransferError) else type(error).__name__)
        return None


def _refusal(items: Sequence[ScanToPredict], reasons: Sequence[str], code: str) -> Analysis:
    """One refusal for all of the items."""
    return Analysis(_refused(joined(*dict.fromkeys(reasons))), _headers(_files(items)), refusal=code)


def _refused(reason: str) -> Prediction:
    return Prediction("", status="rejected", reason=reason, problem=reason, found=reason)


def _files(items: Sequence[ScanToPredict]) -> list[Path]:
    return [file for item in items for file in (item.series.files if item.series else [item.case.path])]


def _headers(files: Sequence[Path]) -> tuple[Dataset, ...]:
    """Headers of the readable files. The first of each study, which results copy from, has its text decoded."""
    found = []
    for file in files:
        with suppress(Exception):  # corrupt bytes make a parser raise nearly anything
            found.append(_header(file))
    for header in {str(header.StudyInstanceUID): header for header in reversed(found)}.values():
        _decode(header)
    return tuple(found)


def _decode(header: Dataset) -> None:
    """Decode all text to UTF-8; a damaged element is deleted, so that no result copies it."""
    for tag in list(header.keys()):
        try:
            if header[tag].VR == "SQ":
                for item in header[tag].value:
                    item.decode()
        except Exception:  # corrupt bytes make a parser raise nearly anything
            del header[tag]
    header.SpecificCharacterSet = "ISO_IR 192"


def _header(file: Path) -> Dataset:
    """Read a header; type 2 attributes of patient and study that are missing or invalid are set to empty (unknown)."""
    header = dcmread(file, stop_before_pixels=True)
    for keyword in _PATIENT_AND_STUDY:
        if keyword not in header or not _is_valid(keyword, header[keyword].value):
            setattr(header, keyword, "")
        elif keyword.endswith("Date"):  # ACR-NEMA writes 2026.01.31, which DICOM allows only in old images
            setattr(header, keyword, header[keyword].value.replace(".", ""))
    for keyword in (*_PATIENT_AND_STUDY, "IssuerOfPatientID"):
        if isinstance(header.get(keyword), MultiValue):
            header[keyword] = _one_value(header[keyword])
    if not header.get("FrameOfReferenceUID", ""):
        header.pop("FrameOfReferenceUID", None)  # an empty one would make an invalid object of the heat map
    _ = header.SOPInstanceUID, header.StudyInstanceUID  # an image without them cannot be referred to
    return header


def _one_value(element: DataElement) -> DataElement:
    """The element with its values joined by backslashes, so that a result holds the same bytes as the image.

    These attributes have one value, and highdicom refuses more. Nevertheless a backslash, which separates values, is
    found in them: as a character that somebody typed, or as the second byte of a Big5 character (the family name Hsu)
    in an image that does not declare its character set.
    """
    text = "\\".join(map(str, element.value))
    value = PersonName(text) if element.VR == "PN" else text
    return DataElement(element.tag, element.VR, value, already_converted=True)


def _is_valid(keyword: str, value: object) -> bool:
    """Whether DICOM allows the value: ``U`` is not a Patient's Sex, and 00000000 is not a date."""
    try:
        _KINDS.get(keyword, str)(value)
    except (ValueError, TypeError):
        return False
    return True
