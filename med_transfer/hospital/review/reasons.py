"""Codes as sentences: reasons why there is no answer to rely on, and facts about a scan."""

from __future__ import annotations

from med_transfer.errors.sentence import Sentence
from med_transfer.hospital.codes import reason_code

FACTS = {  # those of cohorts.input_facts, and further quantities of the drift monitor
    "modality": Sentence("modality"),
    "body_part": Sentence("part of the body"),
    "plane": Sentence("plane of the slices"),
    "column_mm": Sentence("distance of columns in mm"),
    "row_mm": Sentence("distance of rows in mm"),
    "slice_mm": Sentence("distance of slices in mm"),
    "width_mm": Sentence("width of the images in mm"),
    "height_mm": Sentence("height of the images in mm"),
    "depth_mm": Sentence("extent across the slices in mm"),
    "value_p01": Sentence("lowest grey values (1st percentile), in HU for CT"),
    "value_p50": Sentence("middle grey value (median), in HU for CT"),
    "value_p99": Sentence("highest grey values (99th percentile), in HU for CT"),
    "noise": Sentence("noise (standard deviation), in HU for CT"),
    "novelty": Sentence("novelty to the network"),
    "outside": Sentence("share of scans outside of the development scans"),
    "unusable": Sentence("share of scans without a prediction"),
}


def reason_in_words(code: str) -> str:
    """Sentence for the code of a reason in a result."""
    if code.startswith("outside_"):
        return Sentence("Outside of the development scans: {fact}", fact=quantity_in_words(code[len("outside_") :]))
    return Sentence(reason_code(code).meaning)


def quantity_in_words(name: str) -> str:
    """Description of a fact, or of a quantity of the drift monitor such as ``p_<class>``."""
    if name.startswith("p_"):
        return Sentence("probability of {name}", name=name[len("p_") :])
    return FACTS.get(name, name)
