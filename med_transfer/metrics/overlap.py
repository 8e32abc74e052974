"""Scans that the judged network has learned from, directly or through its source: no test of new patients."""

from __future__ import annotations

from med_transfer.metrics.estimate import Record


class Overlap(Record):
    """How many of the judged scans were seen before.

    A scan counts as seen when its patient's pseudonym or the very same image is among those that the bundle remembers.

    Attributes:
        n_scans, n_patients: that were judged.
        seen_scans, seen_patients: that the network has learned from.
        seen_by_source: scans among them that the source network, or its pretraining, has learned from; None where the
            bundle does not tell its source's patients from its own.
    """

    n_scans: int
    n_patients: int
    seen_scans: int
    seen_patients: int
    seen_by_source: int | None = None

    @property
    def sentence(self) -> str:
        """In words; empty when nothing was seen."""
        if not self.seen_scans:
            return ""
        return (
            f"{self.seen_scans} of {self.n_scans} scans ({self.seen_patients} of {self.n_patients} patients) were seen "
            "in training: these figures are not of new patients"
        )
