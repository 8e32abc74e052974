"""A bundle behind a PACS: receive -> queue -> predict -> results -> send. Needs the extra ``[hospital]``."""

from __future__ import annotations

import importlib.util

from med_transfer.errors import not_installed


def require_extra() -> None:
    """Raise MissingExtra if a package of the extra is not installed."""
    missing = [
        name
        for name in (
            *("pynetdicom", "highdicom", "dicomweb_client", "aiohttp", "prometheus_client"),
            *("fastapi", "uvicorn", "argon2", "authlib"),
        )
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        raise not_installed(missing[0], "hospital", "med-transfer serve")
