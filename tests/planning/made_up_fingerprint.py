"""Fingerprints of invented cohorts."""

from __future__ import annotations

from typing import Any

from med_transfer.planning import CohortFingerprint, ScanFingerprint

HEAD_BOXES = {"body": (155.0, 220.0, 170.0), "head": (150.0, 210.0, 165.0), "brain": (130.0, 170.0, 135.0)}
CHEST_BOXES = {"body": (330.0, 250.0, 380.0), "lungs": (270.0, 200.0, 300.0)}


def scan(**changes: Any) -> ScanFingerprint:
    """A head CT of thirty slices of 5 mm."""
    facts: dict[str, Any] = {
        "modality": "CT",
        "plane": "axial",
        "shape": (30, 512, 512),
        "spacing_mm": (5.0, 0.43, 0.43),
        "boxes_mm": HEAD_BOXES,
        "given_mm": None,
        "body_region": "head",
        "seconds": 0.1,
    }
    return ScanFingerprint(**(facts | changes))


def cohort(scans: list[ScanFingerprint] | None = None, **changes: Any) -> CohortFingerprint:
    """Twenty such scans of two classes."""
    facts: dict[str, Any] = {
        "scans": tuple(scans or [scan() for _ in range(20)]),
        "patients_of_class": {"haemorrhage": 23, "none": 29},
        "n_patients": 52,
        "n_scans": 52,
    }
    return CohortFingerprint(**(facts | changes))


def with_regions(longest_mm: float = 25.0, **changes: Any) -> CohortFingerprint:
    """Crops of the chest with a region each."""
    crop = scan(boxes_mm={"body": (30.0, 30.0, 30.0)}, given_mm=longest_mm, body_region="unknown")
    return cohort([crop] * 20, n_with_region=52, **changes)


def mr(**changes: Any) -> CohortFingerprint:
    """Brain MR, two sequences."""
    one = scan(modality="", boxes_mm={"body": (140.0, 200.0, 160.0)}, body_region="unknown")
    return cohort([one] * 20, **({"channels": ("scan", "scan_post")} | changes))
