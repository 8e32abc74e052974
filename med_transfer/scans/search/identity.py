"""Identifiers that link a series to a person, read only on request and never stored."""

from __future__ import annotations

from dataclasses import dataclass, field

from med_transfer.errors import UnreadableScan
from med_transfer.errors.sentence import Sentence
from med_transfer.scans.dicom.elements import read_header
from med_transfer.scans.series import Series

_KEYWORDS = ("PatientID", "SeriesDescription", "AccessionNumber")


@dataclass(frozen=True)
class Identity:
    """PatientID (0010,0020), SeriesDescription (0008,103E), AccessionNumber (0008,0050); empty if absent."""

    patient: str = field(default="", repr=False)
    description: str = field(default="", repr=False)
    accession: str = field(default="", repr=False)


def identity(series: Series) -> Identity:
    """Read the identifiers of a series from the header of its first file; empty for other formats than DICOM.

    Raises:
        UnreadableScan: the file can no longer be read, or has changed.
    """
    if series.format != "dicom":
        return Identity()
    try:
        header = read_header(series.files[0], (*_KEYWORDS, "SpecificCharacterSet"))
    except Exception as error:  # corrupt bytes make a parser raise nearly anything
        reason = Sentence("header cannot be read ({kind})", kind=type(error).__name__)
        raise UnreadableScan(reason, where=series.files[0]) from error
    if series.slices and series.slices[0].stamp != header.stamp:
        raise UnreadableScan("header has changed since the series was found", where=series.files[0])
    return Identity(*(header.values.get(keyword, ("",))[0] for keyword in _KEYWORDS))
