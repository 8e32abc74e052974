"""A bundle behind a PACS: receive -> queue -> predict -> results -> send. Needs the extra ``[hospital]``."""

from __future__ import annotations

import importlib.util

from med_transfer.errors import MissingExtra


def require_extra() -> None:
    """Raises MissingExtra where a package of the extra is not installed."""
    missing = [name for name in ("pynetdicom", "highdicom") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"package {missing[0]} is not installed",
            where="med-transfer serve",
            action="Run: pip install med-transfer[hospital]",
        )
