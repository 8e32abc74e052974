"""What results say, in codes: the site's own for classes, SNOMED where it has the word, else a private scheme."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.sr.coding import Code

from med_transfer.hospital.config import ClassCode

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
NOVELTY = Code("novelty", PRIVATE, "Share of training data that is less novel")
PROCEDURES = {
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    "PT": Code("82918005", "SCT", "Positron emission tomography"),
}
IMAGING = Code("363679005", "SCT", "Imaging procedure")


def class_code(name: str, codes: Mapping[str, ClassCode]) -> Code:
    """The site's code of a class, or a private one that the name alone decides."""
    if name in codes:
        return Code(codes[name].value, codes[name].scheme, codes[name].meaning)
    return Code(f"class-{_digest(name)}", PRIVATE, name[:64])


def probability_code(name: str) -> Code:
    """What the probability of a class is called."""
    return Code(f"p-{_digest(name)}", PRIVATE, f"Probability of {name}"[:64])


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:10]
