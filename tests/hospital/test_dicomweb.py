"""DICOMweb with a real Orthanc, in both directions, and our own server, which accepts no more than it should."""

from __future__ import annotations

import gc
import http.server
import io
import json
import re
import socket
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from peers import Orthanc, certificate, free_port, orthanc, series, storescu, until
from pydicom import dcmread
from pydicom.dataset import Dataset

from med_transfer.errors import ConfigError
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.dicomweb import WebPacs
from med_transfer.hospital.fetching import fetch_studies
from med_transfer.hospital.incoming import study_id
from med_transfer.hospital.pacs import PacsFailed, StudyQuery
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.settings.peers import WebPeer, WebServer
from med_transfer.hospital.stow import StowServer

README = Path(__file__).parents[2] / "docs/hospital/README.md"
TOKEN = "a-token-of-the-tests"


@pytest.fixture
def queue(node_config, tmp_path: Path) -> Iterator[Queue]:
    queue = Queue(tmp_path / "state" / "queue.sqlite")
    yield queue
    queue.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


class Serving:
    """The server, and its address."""

    def __init__(self, config: NodeConfig, queue: Queue, **settings: object) -> None:
        self.settings = WebServer.model_validate({"port": free_port()} | settings)
        self._server = StowServer(config, self.settings, queue)
        scheme = "https" if self.settings.certificate else "http"
        self.url = f"{scheme}://127.0.0.1:{self.settings.port}/dicom-web"

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        del self._server
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()  # connections of senders that keep TLS open; otherwise another test gets their warnings


def posted(url: str, *contents: bytes, token: str = TOKEN, kind: str = "multipart/related", boundary: str = "=edge"):
    """What is answered to these parts."""
    head = b"--=edge\r\nContent-Type: application/dicom\r\n\r\n"
    body = b"".join(head + content + b"\r\n" for content in contents) + b"--=edge--\r\n"
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": f'{kind}; type="application/dicom"; boundary={boundary}',
    }
    return requests.post(url, body, headers=headers, timeout=240)


def test_parts_are_taken_or_not_each_by_itself(node_config, queue, token, tmp_path):
    config = node_config()
    good, twin, page, strange = (dcmread(file) for file in series(tmp_path / "scan", slices=4))
    uid = str(good.StudyInstanceUID)
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = good.SOPInstanceUID
    page.SOPClassUID = page.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    strange.SOPClassUID = strange.file_meta.MediaStorageSOPClassUID = "1.2.3.4"
    contents = []
    for dataset in (good, twin, page, strange):
        dataset.save_as(buffer := io.BytesIO(), enforce_file_format=True)
        contents.append(buffer.getvalue())
    with Serving(config, queue, token=token) as server:
        url = f"{server.url}/studies"
        assert posted(url, contents[0], token="another").status_code == 401
        assert posted(url, contents[0], kind="multipart/form-data").status_code == 415
        assert posted(url, contents[0], boundary="another").status_code == 400
        assert posted(url).status_code == 400
        assert posted(f"{url}/1.2.3", contents[0]).status_code == 409  # of another study
        assert queue.counts() == {}
        answer = posted(f"{url}/{uid}", *contents, b"DICM? no")
        assert answer.status_code == 202
        said = Dataset.from_json(answer.json())
        taken = [one.ReferencedSOPInstanceUID for one in said.ReferencedSOPSequence]
        assert taken == [good.SOPInstanceUID, page.SOPInstanceUID]  # the page is passed over
        assert [one.FailureReason for one in said.FailedSOPSequence] == [0x0111, 0x0122, 0xC000]
        assert posted(url, contents[0]).status_code == 200  # again: the same
        assert dict(queue.reasons()) == {"conflict": 1, "damaged": 1, "not_as_announced": 1}
        (kept,) = (config.folder / "incoming").glob("*/*")
        assert kept.read_bytes() == contents[0]


def test_too_much_is_not_taken(node_config, queue, token):
    with Serving(node_config(limits={"disk_free_gib": 0, "instance_mib": 0.001}), queue, token=token) as server:
        assert posted(f"{server.url}/studies", b"x" * 2000).status_code == 413
    hasty = node_config(limits={"disk_free_gib": 0, "network_seconds": 0.3})
    beginning = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        'Content-Length: 900\r\nContent-Type: multipart/related; boundary="=edge"\r\n\r\n--=edge\r\n'
    ).encode()
    with (
        Serving(hasty, queue, token=token) as server,
        socket.create_connection(("127.0.0.1", server.settings.port), timeout=240) as slow,
    ):
        slow.sendall(beginning)
        assert b" 408 " in slow.recv(100)
    with (
        Serving(node_config(limits={"disk_free_gib": 0, "associations": 1}), queue, token=token) as server,
        socket.create_connection(("127.0.0.1", server.settings.port), timeout=240) as slow,
    ):
        assert posted(f"{server.url}/studies", b"x").status_code == 409  # heard, and no image
        slow.sendall(beginning)
        until(lambda: posted(f"{server.url}/studies", b"x").status_code == 503)
    with Serving(node_config(limits={"disk_free_gib": 1e9}), queue, token=token) as server:
        assert posted(f"{server.url}/studies", b"x").status_code == 503
    assert queue.counts() == {}


def test_a_request_of_too_many_images_is_not_answered_as_if_all_were_stored(node_config, queue, token, tmp_path):
    limits = {"disk_free_gib": 0, "study_instances": 2}
    contents = [series(tmp_path / f"{n}", study=n, slices=1)[0].read_bytes() for n in (1, 2, 3, 4)]
    with Serving(node_config(limits=limits), queue, token=token) as server:
        assert posted(f"{server.url}/studies", *contents[:2]).status_code == 200
        answer = posted(f"{server.url}/studies", *contents)
        assert (answer.status_code, "at most 2 instances" in answer.text) == (413, True)


def test_who_may_send_by_web_must_be_said(node_config, queue, token, tmp_path):
    for settings, message in (
        ({}, "who may send"),
        ({"token": token, "bind": "0.0.0.0"}, "without certificate and key"),
        ({"token": token, "key": "x"}, "both or none"),
    ):
        with pytest.raises(ValueError, match=message):
            WebServer.model_validate(settings)
    token.write_text("short")
    with pytest.raises(ConfigError, match="holds no token"):
        Serving(node_config(), queue, token=token)


def test_a_client_certificate_lets_in(node_config, queue, tmp_path):
    (node_key, node_pem), (ct_key, ct_pem) = certificate(tmp_path, "node"), certificate(tmp_path, "ct")
    (expired_key, expired_pem) = certificate(tmp_path, "expired", days=-1)
    both = tmp_path / "trusted.pem"
    both.write_text(ct_pem.read_text() + expired_pem.read_text())
    (file,) = series(tmp_path / "scan", slices=1)
    with Serving(node_config(), queue, certificate=node_pem, key=node_key, trusted=both) as server:
        own = {"kind": "dicomweb", "url": server.url, "trusted": node_pem}
        refused = ("rejected", "unreachable", "no_answer")  # TLS 1.3: the sender may have begun when it is told
        for settings, answer in (
            ({"certificate": ct_pem, "key": ct_key}, ("",)),
            ({"certificate": expired_pem, "key": expired_key}, refused),
            ({}, refused),
        ):
            sender = WebPacs(node_config(), WebPeer.model_validate(own | settings), queue)
            assert sender.store(dcmread(file)) in answer
    assert queue.counts() == {"received": 1}


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    if not peers.ORTHANC or not peers.DCMTK or not peers.PLUGIN.exists():
        pytest.skip("needs orthanc, its DICOMweb plugin and dcmtk")
    folder = tmp_path_factory.mktemp("pacs")
    (recipe,) = re.findall(r"^function OnStableStudy.*?^end$", README.read_text(), re.DOTALL | re.MULTILINE)
    (folder / "node.lua").write_text(recipe)
    with orthanc(folder, free_port(), LuaScripts=[str(folder / "node.lua")], StableAge=1) as server:
        yield server


def test_orthanc_sends_a_study_by_stow(node_config, queue, token, pacs, tmp_path):
    files = series(tmp_path / "scan", slices=3)
    storescu(pacs.dicom, *files, called="ORTHANC")
    with Serving(node_config(), queue, token=token) as server:
        known = {"Url": server.url, "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"}}
        pacs.send("PUT", "/dicom-web/servers/node", known)
        (study,) = pacs.get("/studies")
        pacs.send("POST", "/dicom-web/servers/node/stow", {"Resources": [study], "Synchronous": True})
        assert queue.counts() == {"received": 1}
        (name,) = [study.id for study in queue.studies()]
        assert {uid for uid, _ in queue.instances(name)} == {str(dcmread(file).SOPInstanceUID) for file in files}


def test_orthanc_sends_what_is_stable_by_the_recipe_and_again_for_nothing(node_config, queue, token, pacs, tmp_path):
    files = series(tmp_path / "scan", study=6, slices=3)
    image = dcmread(files[0])
    page = dcmread(files[0])
    page.SOPClassUID = page.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    page.SOPInstanceUID = page.file_meta.MediaStorageSOPInstanceUID = "1.2.3.6"
    page.SeriesInstanceUID = "1.2.3.7"
    page.save_as(tmp_path / "page.dcm")
    with Serving(node_config(), queue, token=token) as server:
        known = {"Url": server.url, "HttpHeaders": {"Authorization": f"Bearer {TOKEN}"}}
        pacs.send("PUT", "/dicom-web/servers/node", known)
        storescu(pacs.dicom, *files, called="ORTHANC")
        until(lambda: len(queue.images_here(study_id(str(image.StudyInstanceUID)))) == 3)
        until(lambda: len(done_jobs(pacs)) == len(pacs.get("/jobs")))
        before = done_jobs(pacs)
        storescu(pacs.dicom, tmp_path / "page.dcm", called="ORTHANC")  # as the node's own would come
        until(lambda: done_jobs(pacs) - before)
    assert [study.revision for study in queue.studies() if study.study_uid == image.StudyInstanceUID] == [1]
    assert dict(queue.reasons()) == {}


def test_a_study_that_orthanc_could_not_send_is_fetched(node_config, queue, token, pacs, tmp_path):
    """Orthanc's job fails once and for all while the node is down."""
    image = dcmread(series(tmp_path / "scan", study=8, slices=3)[0])
    known = {"Url": f"http://127.0.0.1:{free_port()}/dicom-web"}
    pacs.send("PUT", "/dicom-web/servers/node", known)
    before = set(pacs.get("/jobs"))
    storescu(pacs.dicom, *(tmp_path / "scan").glob("*"), called="ORTHANC")
    until(lambda: [one for one in set(pacs.get("/jobs")) - before if pacs.get(f"/jobs/{one}")["State"] == "Failure"])
    config = node_config(pacs={"url": f"http://127.0.0.1:{pacs.http}/dicom-web"})
    query = StudyQuery(study_uid=str(image.StudyInstanceUID))
    assert fetch_studies(config, queue, query, 100, str) == (1, 0)
    assert len(queue.images_here(study_id(str(image.StudyInstanceUID)))) == 3


def done_jobs(pacs: Orthanc) -> set[str]:
    """What Orthanc has sent, or tried to."""
    jobs = [pacs.get(f"/jobs/{name}") for name in pacs.get("/jobs")]
    return {job["ID"] for job in jobs if job["State"] in ("Success", "Failure")}


class NoPages(http.server.BaseHTTPRequestHandler):
    """A service that gives all that it has, whichever page is asked for; or ever more."""

    endless = False
    requests = 0

    def do_GET(self) -> None:
        type(self).requests += 1
        uids = [f"1.2.{self.requests}" if self.endless else "1.2.3"]
        unknown = {"00080016": {"vr": "UI"}}  # the class, which it does not know
        content = json.dumps([unknown | {"00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_service_that_knows_no_pages_is_not_asked_for_ever(node_config, queue):
    server = http.server.HTTPServer(("127.0.0.1", 0), NoPages)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        peer = WebPeer(kind="dicomweb", url=f"http://127.0.0.1:{server.server_port}")
        pacs = WebPacs(node_config(limits={"study_instances": 5}), peer, queue)
        assert pacs.images("1.2") == {"1.2.3"}
        assert NoPages.requests == 2
        NoPages.endless = True
        with pytest.raises(PacsFailed, match="too_many_answers"):
            pacs.images("1.2")
    finally:
        server.shutdown()
        server.server_close()


def test_a_result_counts_as_sent_only_when_the_answer_says_so(node_config, queue, pacs, tmp_path, monkeypatch):
    (file,) = series(tmp_path / "result", study=5, slices=1)
    result, url = dcmread(file), f"http://127.0.0.1:{pacs.http}/dicom-web"
    web = WebPacs(node_config(), WebPeer(kind="dicomweb", url=url), queue)
    assert web.store(result) == ""
    assert web.store(result) == ""  # again: Orthanc has it
    assert result.SOPInstanceUID in web.images(str(result.StudyInstanceUID))
    del result.SOPInstanceUID
    result.SOPInstanceUID = ""
    assert web.store(result) != ""
    nowhere = WebPacs(node_config(), WebPeer(kind="dicomweb", url=f"{url}/nowhere"), queue)
    assert nowhere.store(dcmread(file)) == "http_404"
    monkeypatch.setattr(DICOMwebClient, "store_instances", lambda *_: Dataset())  # some servers answer like this
    assert web.store(dcmread(file)) == "not_confirmed"


class TakesAndHangsUp(http.server.BaseHTTPRequestHandler):
    """As a service, or a proxy before it, that ends before it has answered."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.close_connection = True


def test_who_hangs_up_without_an_answer_may_have_taken_the_result(node_config, queue, tmp_path):
    """So that it is named, or taken back, by a later one."""
    (file,) = series(tmp_path / "scan", slices=1)
    server = http.server.HTTPServer(("127.0.0.1", 0), TakesAndHangsUp)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    peer = WebPeer(kind="dicomweb", url=f"http://127.0.0.1:{server.server_port}")
    try:
        assert WebPacs(node_config(), peer, queue).store(dcmread(file)) == "no_answer"
    finally:
        server.shutdown()
        server.server_close()
    assert WebPacs(node_config(), peer, queue).store(dcmread(file)) == "unreachable"


ODD_ANSWERS = {  # to STOW-RS, as JSON: lists of items without what identifies them, or says why they failed
    "an unnamed item": {"00081199": {"vr": "SQ", "Value": [{}]}},
    "a failure without a reason": {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [None]}}]}},
}


@pytest.mark.parametrize("odd", ODD_ANSWERS)
def test_an_odd_answer_leaves_open_whether_the_result_was_taken(odd, node_config, queue, tmp_path):
    """So that it is named, or taken back, by a later one."""

    class Odd(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", "application/dicom+json")
            self.end_headers()
            self.wfile.write(json.dumps(ODD_ANSWERS[odd]).encode())

        def log_message(self, *_: object) -> None:
            pass

    (file,) = series(tmp_path / "scan", slices=1)
    server = http.server.HTTPServer(("127.0.0.1", 0), Odd)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    peer = WebPeer(kind="dicomweb", url=f"http://127.0.0.1:{server.server_port}")
    try:
        reason = WebPacs(node_config(), peer, queue).store(dcmread(file))
    finally:
        server.shutdown()
        server.server_close()
    assert reason == "answer_not_understood"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status, node_config, queue, tmp_path):
    """It could send a patient's images and the token to another host, or unencrypted; 307 and 308 repeat the body."""
    asked = []

    class Redirects(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - as http.server names it

        def log_message(self, *_: object) -> None:
            pass

    (file,) = series(tmp_path / "scan", slices=1)
    server = http.server.HTTPServer(("127.0.0.1", 0), Redirects)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        web = WebPacs(node_config(), WebPeer(kind="dicomweb", url=f"http://127.0.0.1:{server.server_port}"), queue)
        assert web.store(dcmread(file)) == f"http_{status}"
        with pytest.raises(PacsFailed, match=f"http_{status}"):
            web.images("1.2.3")
        with pytest.raises(PacsFailed, match=f"http_{status}"):
            web.fetch("1.2.3")
    finally:
        server.shutdown()
        server.server_close()
    assert len(asked) == 3
    assert not [path for path in asked if path.startswith("/elsewhere")]
