from .fingerprint import CohortFingerprint, ScanFingerprint, fingerprint_cohort, fingerprint_scan, require_alike
from .given_settings import GivenSettings
from .plan import Plan, plan_cohort
from .planned_for import PlannedFor
from .rules import Choice

__all__ = [
    "Choice",
    "CohortFingerprint",
    "GivenSettings",
    "Plan",
    "PlannedFor",
    "ScanFingerprint",
    "fingerprint_cohort",
    "fingerprint_scan",
    "plan_cohort",
    "require_alike",
]
