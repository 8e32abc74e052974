from .fingerprint import CohortFingerprint, ScanFingerprint, fingerprint_cohort, fingerprint_scan, require_alike
from .plan import Plan, plan_cohort
from .planned_for import PlannedFor
from .rules import Choice

__all__ = [
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
