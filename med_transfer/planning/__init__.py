"""What a cohort looks like, and the config that suits it, each choice with its reason."""

from med_transfer.planning.fingerprint import (
    CohortFingerprint,
    ScanFingerprint,
    fingerprint_cohort,
    fingerprint_scan,
    require_alike,
)
from med_transfer.planning.plan import Plan, plan_cohort
from med_transfer.planning.planned_for import PlannedFor
from med_transfer.planning.rules import AtHand, Choice

__all__ = [
    "AtHand",
    "Choice",
    "CohortFingerprint",
    "Plan",
    "PlannedFor",
    "ScanFingerprint",
    "fingerprint_cohort",
    "fingerprint_scan",
    "plan_cohort",
    "require_alike",
]
