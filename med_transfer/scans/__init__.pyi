from .masks.masks import read_mask
from .reading import read_scan
from .region import Region, region_of_mask
from .search.identity import Identity, identity
from .search.survey import find_series, survey
from .series import Ignored, Series, Survey
from .verdict import Verdict
from .volume import Provenance, Volume

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
