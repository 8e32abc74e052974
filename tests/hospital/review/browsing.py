"""A running review page on loopback, and people who browse it: real uvicorn, real HTTP."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import requests
from argon2 import PasswordHasher
from fastapi import FastAPI
from peers import until
from requests.adapters import HTTPAdapter

from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.queue import Queue
from med_transfer.hospital.review.app import review_app
from med_transfer.hospital.review.serving import server_of

PASSWORD = "a long password of the tests"
PEOPLE = {"ann": "operator", "ray": "reviewer", "rita": "reader"}
HTML = {"Accept": "text/html"}


@cache
def hashed() -> str:
    """Cheap to verify, since a hash says what it cost."""
    return PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1).hash(PASSWORD)


class Page:
    """Where it is, and what it is made of."""

    def __init__(self, app: FastAPI, port: int, *, secure: bool) -> None:
        self.app, self.port, self.access = app, port, app.state.access
        self._browsers: list[Browser] = []
        self.url = f"{'https' if secure else 'http'}://127.0.0.1:{port}"

    def browser(self, user: str = "", address: str = "127.0.0.1", verify: Any = True) -> Browser:
        """Of somebody who is signed in, or of nobody. A password is only hashed by ``sign_in``: that takes long."""
        browser = Browser(self, address, verify)
        self._browsers.append(browser)
        if user:
            secret = self.access.sessions.begin(user, PEOPLE.get(user, "reader"), local=True)
            browser.cookies.set(self.access.cookie.name, secret)
        return browser

    def leave(self) -> None:
        """Everybody closes their browser."""
        for browser in self._browsers:
            browser.close()

    def events(self) -> list[tuple[str, str]]:
        """User and event of the audit record, in order."""
        return [(line["user"], line["what"]) for line in reversed(self.access.audit.latest(10_000))]


class Browser(requests.Session):
    """Paths instead of addresses; redirects are not followed."""

    def __init__(self, page: Page, address: str, verify: Any) -> None:
        super().__init__()
        self.page, self.trust_env, self.verify = page, False, verify
        for scheme in ("http://", "https://"):
            self.mount(scheme, _From(address))

    def request(self, method, url, **kwargs):  # type: ignore[override]
        url = url if "://" in url else self.page.url + url
        return super().request(method, url, **{"timeout": 240} | kwargs | {"allow_redirects": False})

    @property
    def token(self) -> str:
        """The CSRF token of the page that this browser would see."""
        return re.findall(r'name="csrf" content="([0-9a-f]*)"', self.get("/", headers=HTML).text)[0]

    def form(self, path: str, at: str, **values: str) -> requests.Response:
        """Fill in the form of a page and send it, as from that page."""
        found = re.findall(r'name="csrf" value="([0-9a-f]*)"', self.get(at).text)
        return self.post(path, data={"csrf": found[0]} | values, headers=HTML | {"Origin": self.page.url})

    def sign_in(self, user: str, password: str = PASSWORD, **more: str) -> requests.Response:
        return self.form("/login", "/login", name=user, password=password, **more)


class _From(HTTPAdapter):
    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *args, **kwargs):
        super().init_poolmanager(*args, source_address=(self._address, 0), **kwargs)


@contextmanager
def page_of(folder: Path, settings: dict[str, object] | None = None, **node: object) -> Iterator[Page]:
    """The page of a node in a folder, with ``PEOPLE`` as its users."""
    folder.mkdir(exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as that of serve_page
        port = door.getsockname()[1]
        config = NodeConfig.model_validate({"folder": folder, "page": {"port": port} | (settings or {})} | node)
        assert config.page is not None
        queue = Queue(config.queue_file)
        app = review_app(config, queue)
        if config.page.oidc is None:
            with app.state.access.database.writing() as database:
                rows = [(name, role, hashed()) for name, role in PEOPLE.items()]
                database.executemany("INSERT OR IGNORE INTO user VALUES (?, ?, ?)", rows)
        server = server_of(app, config.page)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        page = Page(app, port, secure=config.page.certificate is not None)
        try:
            until(lambda: server.started)
            yield page
        finally:
            page.leave()
            server.should_exit = True
            thread.join(240)
            queue.close()
    assert not thread.is_alive()


def raw(port: int, *pieces: bytes, seconds: float = 240.0) -> bytes:
    """What is answered to bytes, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        answer = b""
        try:
            for piece in pieces:
                connection.sendall(piece)
            while piece := connection.recv(65536):
                answer += piece
        except (TimeoutError, ConnectionError):
            pass
    return answer
