"""Send results to a FHIR server by POST. Source: HL7 FHIR R4, http.html#transaction."""

from __future__ import annotations

import http.client
import json
import ssl
import time
import urllib.error
import urllib.request

from med_transfer.errors import ConfigError
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.dicomweb import read_token
from med_transfer.hospital.queue import Delivery, Queue
from med_transfer.hospital.sender import deliver
from med_transfer.hospital.settings.peers import FhirServer


class FhirSender:
    """Sends due results to one server. Raises ConfigError if its token or certificates cannot be read."""

    def __init__(self, node: NodeConfig, queue: Queue, server: FhirServer) -> None:
        self._node, self._queue, self._server = node, queue, server
        self._token = read_token(server.token) if server.token else ""
        try:
            trust = ssl.create_default_context(cafile=server.trusted)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "cannot be read", where=f"fhir ({server.trusted})", expected="certificates as PEM"
            ) from error
        no_proxy, follow_nobody = urllib.request.ProxyHandler({}), _NoRedirect()  # else others might get the token
        handlers = (no_proxy, follow_nobody, urllib.request.HTTPSHandler(context=trust))
        self._opener = urllib.request.build_opener(*handlers)

    def send_due(self) -> int:
        """Post due results; return how many were accepted."""
        return sum(deliver(self._queue, one, self._post) for one in self._queue.to_send(self._server.name, time.time()))

    def _post(self, delivery: Delivery) -> str:
        """Post one result; return a code of why it was not accepted, empty if it was."""
        headers = {"Content-Type": "application/fhir+json", "Accept": "application/fhir+json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        content = (self._node.folder / delivery.file).read_bytes()
        request = urllib.request.Request(self._server.url, content, headers, method="POST")
        try:
            with self._opener.open(request, timeout=self._node.limits.network_seconds) as answer:
                response = json.loads(answer.read(1 << 24))
        except urllib.error.HTTPError as error:
            return f"refused_http_{error.code}"
        except urllib.error.URLError:  # raised only before the request was sent completely
            return "unreachable"
        except (OSError, http.client.HTTPException, ValueError):  # no answer, a truncated one, or not JSON
            return "no_answer"
        return _refusal(response)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: object, **_options: object) -> None:
        """Follow no redirect, so that it is an error."""


def _refusal(response: object) -> str:
    """Code of the first entry of a transaction's response that failed; empty if all succeeded."""
    entries = response.get("entry") if isinstance(response, dict) else None
    states = [_state(entry) for entry in entries] if isinstance(entries, list) else []
    if not states or not all(states):  # the server may have taken what was sent
        return "no_answer"
    return next((f"refused_fhir_{state[:3]}" for state in states if not state.startswith("2")), "")


def _state(entry: object) -> str:
    """HTTP status of an entry of the response, as in ``201 Created``; empty if it has none."""
    response = entry.get("response") if isinstance(entry, dict) else None
    return str(response.get("status", "")) if isinstance(response, dict) else ""
