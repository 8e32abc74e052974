"""The node as a user of somebody's DICOMweb service: QIDO-RS, WADO-RS and STOW-RS. Source: DICOM PS3.18 10."""

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
from med_transfer.hospital.config import NodeConfig, WebPeer
from med_transfer.hospital.incoming import Unfit, keep, keep_aside, received_file
from med_transfer.hospital.pacs import Fetched, PacsFailed, StudyQuery, is_taken
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.server import disk_is_full

logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL + 1)  # it logs what it is asked for


class WebPacs:
    """Raises ConfigError where the peer's token or certificates cannot be read."""

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
        return {uid for uid, image in self._all(search, "SOPInstanceUID").items() if is_taken(image)}

    def _all(self, search: Callable[..., list[dict[str, dict]]], keyword: str) -> dict[str, Dataset]:
        """What is found, by UID, page after page until one brings nothing new: some services know no pages."""
        found: dict[str, Dataset] = {}
        n_answers, more = 0, True
        while more:
            with answering():
                answers = [Dataset.from_json(answer) for answer in search(offset=n_answers)]
                page = {str(answer[keyword].value): answer for answer in answers if keyword in answer}
            more = not page.keys() <= found.keys()
            found |= page
            n_answers += len(answers)
            if len(found) > self._node.limits.study_instances:
                raise PacsFailed("too_many_answers")
        return found

    def fetch(self, study_uid: str) -> Fetched:
        """See Pacs; the images go straight into the queue, checked as those that are sent."""
        fetched = Fetched(0, 0)
        with answering():
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
        except Unfit as unfit:
            if unfit.reason == "class_not_supported":  # a study may hold what only its maker knows
                return Fetched(0, 0)
            keep_aside(node.folder, self._queue, unfit.reason, "pacs", buffer.getvalue(), now)
            return Fetched(0, 1)
        return Fetched(int(kept), 0)

    def store(self, result: Dataset) -> str:
        """Why a result was not stored, a code; empty when the answer says that it was, and nothing else."""
        uid = str(result.SOPInstanceUID)
        try:
            with answering():
                answer = self._client.store_instances([result])
        except PacsFailed as failed:
            return failed.reason
        refused = answer.get("FailedSOPSequence", None) or []
        if refused:
            return f"refused_{int(refused[0].get('FailureReason', 0)):04X}"
        stored = {str(one.ReferencedSOPInstanceUID) for one in answer.get("ReferencedSOPSequence", None) or []}
        return "" if uid in stored else "not_confirmed"


def _client(peer: WebPeer, seconds: float) -> DICOMwebClient:
    client = DICOMwebClient(peer.name, session=web_session(peer), timeout=seconds)
    client.set_http_retry_params(retry=False)  # the queue tries again
    return client


def web_session(peer: WebPeer) -> requests.Session:
    """With the peer's token and certificates, and no others. Raises ConfigError where they cannot be read."""
    session = requests.Session()
    session.trust_env = False  # a .netrc would take the token's place
    session.hooks["response"] = [_plain_content_type]
    if peer.trusted:
        session.verify = str(_readable(peer.trusted))
    if peer.certificate and peer.key:
        session.cert = (str(_readable(peer.certificate)), str(_readable(peer.key)))
    if peer.token:
        session.headers["Authorization"] = f"Bearer {read_token(peer.token)}"
    return session


def read_token(path: Path) -> str:
    """A bearer token, alone in its file. Raises ConfigError."""
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


def _plain_content_type(response: requests.Response, *_: Any, **__: Any) -> None:
    """The client reads JSON only where the type has no parameter, as charset=utf-8."""
    kind = response.headers.get("Content-Type", "")
    if "json" in kind:
        response.headers["Content-Type"] = kind.partition(";")[0].strip()


@contextmanager
def answering() -> Iterator[None]:
    """What goes wrong on the wire, as a code. Raises PacsFailed."""
    try:
        yield
    except requests.HTTPError as error:
        raise PacsFailed(_refusal(error.response)) from None
    except (requests.exceptions.SSLError, requests.exceptions.ProxyError):
        raise PacsFailed("rejected") from None
    except requests.ConnectionError as error:  # who hangs up later may have taken what was sent
        never_connected = any(hasattr(cause, "reason") for cause in error.args)  # urllib3's MaxRetryError
        raise PacsFailed("unreachable" if never_connected else "no_answer") from None
    except requests.Timeout:
        raise PacsFailed("no_answer") from None
    except (ValueError, KeyError, TypeError, AttributeError, requests.RequestException):  # no DICOM, no JSON
        raise PacsFailed("answer_not_understood") from None


def _refusal(response: requests.Response | None) -> str:
    """Of STOW-RS the reason for the instance, where the body says one."""
    if response is None:
        return "no_answer"
    try:
        refused = Dataset.from_json(response.json()).FailedSOPSequence[0]
        return f"refused_{int(refused.FailureReason):04X}"
    except Exception:  # the body of an error may be anything
        return f"http_{response.status_code}"
