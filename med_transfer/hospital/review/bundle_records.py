"""Bundle records for the page.

The node checked each bundle when it was put into use. The page shows the copy's record as it is, even if it no longer
matches its own lock.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from med_transfer.bundle.record import RECORD_FILE, BundleRecord
from med_transfer.bundle.similar_cases import SimilarCases, load_similar_cases
from med_transfer.errors import BundleError
from med_transfer.hospital.config import NodeConfig

log = logging.getLogger(__name__)

_BUNDLES = 8  # kept in memory


def bundle_record(node: NodeConfig, mark: str) -> BundleRecord | None:
    """Record of a bundle of the node; None if its copy is gone or cannot be read."""
    try:
        return _read(node.bundle_copy(mark)) if mark else None
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.error("bundle %s cannot be read for the page (%s)", mark, type(error).__name__)
        return None


def bundle_cases(node: NodeConfig, mark: str) -> SimilarCases | None:
    """The similar cases (development scans) stored in a bundle; None if it has none or they cannot be read."""
    record = bundle_record(node, mark)
    try:
        return _cases(node.bundle_copy(mark)) if record and record.n_similar_cases else None
    except BundleError as error:
        log.error("bundle %s: %s", mark, error.found)
        return None


_cases = lru_cache(_BUNDLES)(load_similar_cases)  # exceptions are not cached, so that a failed read is retried


@lru_cache(_BUNDLES)
def _read(folder: Path) -> BundleRecord:
    return BundleRecord.model_validate_json((folder / RECORD_FILE).read_bytes())
