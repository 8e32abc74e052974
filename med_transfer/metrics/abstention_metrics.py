"""What metrics.json says of leaving uncertain scans to a human."""

from __future__ import annotations

from med_transfer.metrics.estimate import Estimate, Record


class AbstentionPoint(Record):
    """The most certain scans are called at the operating point, the others are not.

    Attributes:
        share: of all test scans that are called.
        n_scans: that are called.
        certainty: of the least certain scan among them, see ``abstention.certainty``.
        called: by class, the share of its scans that are called; None without such a scan.
        sensitivity: by class, among the scans that are called.
        balanced_accuracy: among the scans that are called.
    """

    share: float
    n_scans: int
    certainty: float
    called: dict[str, float | None]
    sensitivity: dict[str, Estimate]
    balanced_accuracy: Estimate
