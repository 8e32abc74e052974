"""The node as a DICOMweb client: QIDO-RS, WADO-RS and STOW-RS. Source: DICOM PS3.18 10."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient
from pydicom.dataset import Dataset

from med_transfer.errors import ConfigError
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.incoming import RejectedInstance, keep, keep_aside, received_file
from med_transfer.hospital.pacs import Fetched, PacsFailed, StudyQuery, is_accepted
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.server import disk_is_full
from med_transfer.hospital.settings.peers import WebPeer

logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL + 1)  # it logs queries, which may identify patients


class WebPacs:
    """A PACS that is queried by DICOMweb; see Pacs.

    Raises:
        ConfigError: the peer's token or certificates cannot be read.
    """

    def __init__(self, node: NodeConfig, peer: WebPeer, queue: Queue) -> None:
        self._node, self._queue = node, queue
        self._client = _client(peer, node.limits.network_seconds)

    def find(self, query: StudyQuery) -> list[str]:
        """See Pacs."""
        search = partial(self._client.search_for_studies, search_filters=query.keys)
        return list(self._all(search, "StudyInstanceUID"))

    def images(self, study_uid: str) -> set[str]:
        """See Pacs."""
        search = partial(self._client.search_for_instances, study_uid)
        return {uid for uid, image in self._all(search, "SOPInstanceUID").items() if is_accepted(image)}

    def _all(self, search: Callable[..., list[dict[str, dict]]], keyword: str) -> dict[str, Dataset]:
        """Matches by UID, fetched page by page until one has nothing new, since some services ignore the offset."""
        found: dict[str, Dataset] = {}
        n_answers, more = 0, True
        while more:
            with pacs_errors():
                answers = [Dataset.from_json(answer) for answer in search(offset=n_answers)]
                page = {str(answer[keyword].value): answer for answer in answers if keyword in answer}
            more = not page.keys() <= found.keys()
            found |= page
            n_answers += len(answers)
            if len(found) > self._node.limits.study_instances:
                raise PacsFailed("too_many_answers")
        return found

    def fetch(self, study_uid: str) -> Fetched:
        """See Pacs; images go directly into the queue, with the same checks as received ones."""
        fetched = Fetched(0, 0)
        with pacs_errors():
            for dataset in self._client.iter_study(study_uid, media_types=(("application/dicom", "*"),)):
                if disk_is_full(self._node):
                    raise PacsFailed("disk_nearly_full")
                fetched += self._take(dataset)
        return fetched

    def _take(self, dataset: Dataset) -> Fetched:
        buffer, now, node = io.BytesIO(), time.time(), self._node
        dataset.save_as(buffer, enforce_file_format=True)
        try:
            received = received_file(buffer.getvalue())
            kept = keep(node.folder, self._queue, received, now, node.limits.study_instances)
        except RejectedInstance as rejected:
            if rejected.reason == "class_not_supported":  # such as a vendor's private class
                return Fetched(0, 0)
            keep_aside(node.folder, self._queue, rejected.reason, "pacs", buffer.getvalue(), now)
            return Fetched(0, 1)
        return Fetched(int(kept), 0)

    def store(self, result: Dataset) -> str:
        """Store a result; return an empty string if the answer confirms that it was stored, else a code of why not."""
        uid = str(result.SOPInstanceUID)
        try:
            with pacs_errors():
                answer = self._client.store_instances([result])
                refused = answer.get("FailedSOPSequence", None) or []
                stored = {str(one.ReferencedSOPInstanceUID) for one in answer.get("ReferencedSOPSequence", None) or []}
                reason = f"refused_{int(refused[0].get('FailureReason', 0)):04X}" if refused else ""
        except PacsFailed as failed:
            return failed.reason
        return reason or ("" if uid in stored else "not_confirmed")


def _client(peer: WebPeer, seconds: float) -> DICOMwebClient:
    client = DICOMwebClient(peer.name, session=web_session(peer), timeout=seconds)
    client.set_http_retry_params(retry=False)  # the queue does
    return client


def web_session(peer: WebPeer) -> requests.Session:
    """Open a session with the peer's own token and certificates only, which follows no redirect.

    Raises ConfigError if they cannot be read.
    """
    session = requests.Session()
    session.trust_env = False  # a .netrc would override the token
    session.hooks["response"] = [_refuse_redirect, _plain_content_type]
    if peer.trusted:
        session.verify = str(_readable(peer.trusted))
    if peer.certificate and peer.key:
        session.cert = (str(_readable(peer.certificate)), str(_readable(peer.key)))
    if peer.token:
        session.headers["Authorization"] = f"Bearer {read_token(peer.token)}"
    return session


def read_token(path: Path) -> str:
    """Read a bearer token from a file that holds nothing else. Raises ConfigError."""
    token = _readable(path).read_text(encoding="utf-8", errors="replace").strip()
    if len(token) < 16 or not token.isascii() or len(token.split()) != 1:
        raise ConfigError("holds no token", where=path, expected="one word of at least 16 ASCII characters")
    return token


def _readable(path: Path) -> Path:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(error.strerror or "cannot be read", where=path, expected="a file") from None
    return path


def _refuse_redirect(response: requests.Response, *_: Any, **__: Any) -> None:
    """Raise HTTPError for a redirect: it could send images and the token elsewhere, or unencrypted."""
    if 300 <= response.status_code < 400:
        raise requests.HTTPError(f"redirect {response.status_code}", response=response)


def _plain_content_type(response: requests.Response, *_: Any, **__: Any) -> None:
    """Strip parameters such as charset=utf-8 from a JSON content type, which the client does not understand."""
    kind = response.headers.get("Content-Type", "")
    if "json" in kind:
        response.headers["Content-Type"] = kind.partition(";")[0].strip()


@contextmanager
def pacs_errors() -> Iterator[None]:
    """Turn errors of the connection or of the answer into PacsFailed with a code."""
    try:
        yield
    except requests.HTTPError as error:
        raise PacsFailed(_refusal(error.response)) from None
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError):
        raise PacsFailed("rejected") from None
    except requests.ConnectionError as error:  # if the peer hangs up later, it may have stored what was sent
        never_connected = any(hasattr(cause, "reason") for cause in error.args)  # urllib3's MaxRetryError
        raise PacsFailed("unreachable" if never_connected else "no_answer") from None
    except requests.Timeout:
        raise PacsFailed("no_answer") from None
    except (ValueError, KeyError, TypeError, AttributeError, requests.RequestException):  # not DICOM, or not JSON
        raise PacsFailed("answer_not_understood") from None


def _refusal(response: requests.Response | None) -> str:
    """Code of an error response; for STOW-RS the instance's failure reason, if the body gives one."""
    if response is None:
        return "no_answer"
    try:
        refused = Dataset.from_json(response.json()).FailedSOPSequence[0]
        return f"refused_{int(refused.FailureReason):04X}"
    except Exception:  # the body of an error may be anything
        return f"http_{response.status_code}"
