"""Finds series on disk, gives a verdict on their geometry, and reads them as volumes in patient coordinates."""

from med_transfer.scans.masks.masks import read_mask
from med_transfer.scans.reading import read_scan
from med_transfer.scans.region import Region, region_of_mask
from med_transfer.scans.search.identity import Identity, identity
from med_transfer.scans.search.survey import find_series, survey
from med_transfer.scans.series import Ignored, Series, Survey
from med_transfer.scans.verdict import Verdict
from med_transfer.scans.volume import Provenance, Volume

__all__ = [
    "Identity",
    "Ignored",
    "Provenance",
    "Region",
    "Series",
    "Survey",
    "Verdict",
    "Volume",
    "find_series",
    "identity",
    "read_mask",
    "read_scan",
    "region_of_mask",
    "survey",
]
