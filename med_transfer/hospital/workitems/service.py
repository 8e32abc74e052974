"""Client for a worklist's UPS-RS transactions. Source: DICOM PS3.18 11.5 to 11.10."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import requests
from pydicom.dataset import Dataset

from med_transfer.hospital.dicomweb import pacs_errors, web_session
from med_transfer.hospital.pacs import PacsFailed
from med_transfer.hospital.settings.workitems import Workitems

REFUSED = frozenset({"http_400", "http_404", "http_409", "http_410"})  # final, PS3.18 tables 11.5.3-1 to 11.7.3-1
NewState = Literal["IN PROGRESS", "COMPLETED", "CANCELED"]
_JSON = "application/dicom+json"


class WorkitemService:
    """A worklist service; each method is one request.

    Methods raise PacsFailed on failure: a reason in ``REFUSED`` is final, after any other a retry may succeed.

    Raises:
        ConfigError: a token or certificate cannot be read.
    """

    def __init__(self, settings: Workitems, seconds: float) -> None:
        self._session, self._seconds, self._as_array = web_session(settings.service), seconds, settings.as_array
        self._root = settings.service.name

    def search(self, keys: Mapping[str, str]) -> list[Dataset]:
        """Matching items, as far as the server supports the keys; search results may lack attributes."""
        return self._read("workitems", keys)

    def retrieve(self, uid: str) -> Dataset:
        """One complete item, except for its Transaction UID, which servers do not return."""
        found = self._read(f"workitems/{quote(uid)}")
        if len(found) != 1:
            raise PacsFailed("answer_not_understood")
        return found[0]

    def update(self, uid: str, transaction_uid: str, changes: Dataset) -> None:
        """Change a claimed item; the Transaction UID is in the query (11.6.1.2) and the data set (PS3.4 CC.2.6.2)."""
        changes.TransactionUID = transaction_uid
        self._send("POST", f"workitems/{quote(uid)}?{quote(transaction_uid)}", changes)

    def change_state(self, uid: str, transaction_uid: str, state: NewState) -> None:
        """Claim, complete or cancel an item."""
        change = Dataset()
        change.TransactionUID, change.ProcedureStepState = transaction_uid, state
        self._send("PUT", f"workitems/{quote(uid)}/state", change)

    def subscribe(self, uid: str, ae_title: str) -> str:
        """Subscribe to the events of an item; return the URL of the WebSocket."""
        own = f"subscribers/{quote(ae_title, safe='')}"
        answer = self._send("POST", f"workitems/{quote(uid)}/{own}")
        url = answer.headers.get("Content-Location") or answer.headers.get("Location") or ""
        default = f"ws{self._root.removeprefix('http')}/{own}"
        return url if _is_as_safe(url, default) else default

    def _read(self, path: str, keys: Mapping[str, str] | None = None) -> list[Dataset]:
        answer = self._send("GET", path, params=keys)
        with pacs_errors():
            found = answer.json() if answer.content else []
            return [Dataset.from_json(item) for item in (found if isinstance(found, list) else [found])]

    def _send(
        self, method: str, path: str, content: Dataset | None = None, params: Mapping[str, str] | None = None
    ) -> requests.Response:
        headers, body = {"Accept": _JSON}, None
        if content is not None:
            headers["Content-Type"] = _JSON
            body = self._encoded(content)
        with pacs_errors():
            answer = self._session.request(
                *(method, f"{self._root}/{path}"),
                params=dict(params or {}),
                data=body,
                headers=headers,
                timeout=self._seconds,
            )
            answer.raise_for_status()
        return answer

    def _encoded(self, content: Dataset) -> bytes:
        model: Any = content.to_json_dict()
        return json.dumps([model] if self._as_array else model, sort_keys=True).encode()  # ordered by tag, F.2.2


def _is_as_safe(url: str, default: str) -> bool:
    """Whether the token may be sent to a URL: same host as the service, and not unencrypted unless the service is."""
    given, own = urlsplit(url), urlsplit(default)
    return given.hostname == own.hostname and given.scheme in ("wss", own.scheme)
