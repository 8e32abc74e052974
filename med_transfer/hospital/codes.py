"""Coded concepts of results: the site's codes for classes, SNOMED CT where possible, else a private scheme."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from med_transfer.hospital.settings.value_types import CodedEntry

PRIVATE = "99MEDTRANSFER"
SCHEMES = (
    CodingSchemeIdentificationItem(
        designator=PRIVATE, name="med_transfer", responsible_organization="The maker of the bundle"
    ),
)
PRESENT, ABSENT = Code("52101004", "SCT", "Present"), Code("2667000", "SCT", "Absent")
YES, NO = Code("373066001", "SCT", "Yes"), Code("373067005", "SCT", "No")
NO_UNIT = Code("1", "UCUM", "no units")
COMMENT = Code("121106", "DCM", "Comment")
ANALYSIS = Code("analysis", PRIVATE, "Analysis")
ANALYSED, NOT_ANALYSED = Code("analysed", PRIVATE, "Analysed"), Code("not-analysed", PRIVATE, "Not analysed")
PREDICTED = Code("predicted", PRIVATE, "Predicted class")
ABSTAINED = Code("abstained", PRIVATE, "Abstained: unlike the training data")
ABSTENTION_REASON = Code("abstained-reason", PRIVATE, "Reason for abstaining")
REFUSAL_REASON = Code("refused-reason", PRIVATE, "Reason why there is no answer")
NOVELTY = Code("novelty", PRIVATE, "Share of training data that is less novel")
SPATIAL = Code("309825002", "SCT", "Spatial and relational concept")
EVIDENCE_FOR_CLASS = Code("speaks-for-class", PRIVATE, "Where the network found what it takes for the class")
MAP_VALUE = Code("grad-cam", PRIVATE, "Grad-CAM, in units of its strongest value")
PROCEDURES = {
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    "PT": Code("82918005", "SCT", "Positron emission tomography"),
}
REASONS = {  # why there is no answer, by the name of the error or by a code of the node itself
    "GeometryRejected": "The slices do not form a usable volume",
    "InputRejected": "Not the kind of scan that the bundle is for",
    "OrganNotFound": "The organ was not found",
    "ScanNotFound": "No series of images",
    "UnreadableScan": "Damaged, cannot be read",
    "MissingCodec": "Compressed in an unsupported format",
    "UnusableVoxels": "Voxel values cannot be used",
    "NoAnswer": "The network's output was not a number",
    "not-chosen": "No series matches the rules",
    "route-removed": "The node no longer uses this bundle",
}
IMAGING = Code("363679005", "SCT", "Imaging procedure")


def long_string(text: str) -> str:
    """Text as a DICOM LO value: at most 64 characters, without backslashes, which separate values."""
    return shortened(text.replace("\\", "/"), 64)


def shortened(text: str, longest: int) -> str:
    """The text, or its beginning and end in ``longest`` characters: long names of classes often differ at the end."""
    if len(text) <= longest:
        return text
    head = (longest - 3) // 2
    return f"{text[:head]}...{text[head + 3 - longest :]}"


def class_code(name: str, codes: Mapping[str, CodedEntry]) -> Code:
    """The site's code for a class, or else a private code derived from its name alone."""
    if name in codes:
        return Code(codes[name].value, codes[name].scheme, codes[name].meaning)
    return Code(f"class-{_digest(name)}", PRIVATE, long_string(name))


def probability_code(name: str) -> Code:
    """Private code for the probability of a class."""
    return Code(f"p-{_digest(name)}", PRIVATE, long_string(f"Probability of {name}"))


def reason_code(reason: str) -> Code:
    """Private code of the reason why a prediction abstains (as in ``abstained_because``), or why there is none."""
    if reason == "novelty":
        return Code(reason, PRIVATE, "More novel to the network than held-out scans")
    if reason.startswith("outside_"):
        fact = reason.removeprefix("outside_")
        return Code(f"out-{fact.replace('_', '-')}"[:16], PRIVATE, f"Outside of the development scans: {fact}"[:64])
    return Code(reason[:16], PRIVATE, REASONS.get(reason, "Cannot be used"))


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:10]
