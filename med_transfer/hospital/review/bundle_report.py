"""Reports on the bundles in use: classes, thresholds, measured rates, and the model card."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from med_transfer.bundle.record import BundleRecord
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.review.bundle_records import bundle_record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BundleReport:
    """One bundle in use, with its record and model card (Markdown); None or empty if that cannot be read."""

    route: str
    mark: str
    record: BundleRecord | None
    card: str


def reports(node: NodeConfig, queue: Queue) -> list[BundleReport]:
    """Reports of all bundles that are in use, sorted by route."""
    in_use = sorted(queue.bundles_in_use(node.rules_by_route).items())
    return [BundleReport(route, mark, bundle_record(node, mark), _model_card(node, mark)) for route, mark in in_use]


def _model_card(node: NodeConfig, mark: str) -> str:
    try:
        return (node.bundle_copy(mark) / "docs" / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        log.error("the model card of bundle %s cannot be read (%s)", mark, type(error).__name__)
        return ""
