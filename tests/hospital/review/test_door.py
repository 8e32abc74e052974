"""Access to the review page, tested as an outsider would: who gets in, and what a browser or a raw socket may do.

Source: OWASP Web Security Testing Guide 4.2, sections 4.3 to 4.7.
"""

from __future__ import annotations

import re
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import pytest
from browsing import HTML, PASSWORD, PEOPLE, Browser, Page, page_of, raw
from fastapi.routing import APIRoute
from peers import certificate
from starlette.routing import Mount

from med_transfer.hospital import record
from med_transfer.hospital.review.access.audit import AuditTrail
from med_transfer.hospital.review.access.database import Database
from med_transfer.hospital.review.access.gate import SAFE, GuardedRoute
from med_transfer.hospital.review.access.limits import Limits
from med_transfer.hospital.review.guard import LARGEST_BODY

# Who may use a route; a route that is missing here fails the tests.
PUBLIC = {"/login", "/first", "/language", "/oidc/login", "/oidc/answer", "/health", "/style.css"}
ROLES = {
    "/": "reader",
    "/counts": "reader",
    "/logout": "reader",
    "/study/{study}": "reader",
    "/study/{study}/{revision}/{number}/volume.nii.gz": "reader",
    "/study/{study}/{revision}/{number}/map.nii.gz": "reader",
    "/study/{study}/{revision}/{number}/similar/{case}.jpeg": "reader",
    "/study/{study}/feedback": "reviewer",
    "/niivue.js": "reader",
    "/report": "reader",
    "/load": "reader",
    "/accesses": "operator",
}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    with page_of(tmp_path_factory.mktemp("page") / "state") as served:
        yield served


def routes(routes_of) -> Iterator[APIRoute]:
    """All of an application, also those of routers within routers."""
    for route in routes_of:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from routes(route.original_router.routes)
        else:
            assert isinstance(route, Mount)
            assert route.path == "/static"


def requests_of(page: Page) -> list[tuple[str, str, str]]:
    """Method, path as declared, and a path to ask for."""
    return [
        (method, route.path, re.sub(r"\{[^}]*\}", "0", route.path))
        for route in routes(page.app.routes)
        for method in sorted(route.methods)
    ]


def test_no_route_answers_without_a_session(page):
    asked = requests_of(page)
    assert {path for _, path, _ in asked} == PUBLIC | ROLES.keys()
    stranger = page.browser()
    stranger.cookies.set("session", "a-session-that-never-was")
    for method, path, url in asked:
        if path not in PUBLIC:
            assert stranger.request(method, url).status_code == 401, (method, path)
    answer = stranger.get("/?state=dead", headers=HTML)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/login?next=%2F%3Fstate%3Ddead")
    assert stranger.get("/docs").status_code == stranger.get("/openapi.json").status_code == 404


def test_a_route_that_does_not_say_whom_it_is_for_cannot_be_made(page):
    with pytest.raises(TypeError, match=r"/forgotten does not say whom it is for"):
        page.app.add_api_route("/forgotten", lambda: "all")
    assert {type(route) for route in routes(page.app.routes)} == {GuardedRoute}


def test_each_role_may_what_it_may(page):
    ranks = list(reversed(PEOPLE.values()))
    for user, role in PEOPLE.items():
        browser = page.browser(user)
        token = {"X-CSRF-Token": browser.token}
        for method, path, url in requests_of(page):
            if path in PUBLIC or path == "/logout":
                continue
            allowed = ranks.index(role) >= ranks.index(ROLES[path])
            status = browser.request(method, url, headers=token).status_code
            assert (status != 403) == allowed, (user, method, path, status)
            assert status != 401
    assert ("rita", "refused") in page.events()


def test_a_change_needs_the_token_of_this_browser(page):
    browser, other = page.browser("ray"), page.browser("ann")
    right = {"X-CSRF-Token": browser.token}
    wrong = [
        {},
        {"X-CSRF-Token": other.token},
        {"X-CSRF-Token": ""},
        right | {"Origin": "https://evil.example"},
        right | {"Sec-Fetch-Site": "cross-site"},
        right | {"Origin": "null"},
    ]
    for method, path, url in requests_of(page):
        if method not in SAFE:
            for headers in wrong:
                answer = browser.request(method, url, headers=headers)
                assert answer.status_code == 403, (method, path, headers)
    assert browser.post("/logout", data={"csrf": other.token}).status_code == 403
    assert browser.post("/logout", headers=right).status_code == 303


def test_signing_in_makes_a_new_session_and_signing_out_ends_it(page):
    browser = page.browser()
    browser.get("/login")
    planted = browser.cookies["session"]
    assert browser.sign_in("rita").status_code == 303
    secret = browser.cookies["session"]
    assert secret != planted
    thief = page.browser()
    for cookie, status in ((planted, 401), (secret, 200)):
        thief.cookies.set("session", cookie)
        assert thief.get("/").status_code == status
        thief.cookies.clear()
    thief.cookies.set("session", secret)
    assert browser.post("/logout", headers={"X-CSRF-Token": browser.token}).status_code == 303
    assert secret not in browser.cookies.values()
    assert thief.get("/").status_code == 401
    stored = Path(page.app.state.node.access_file).read_bytes() + _wal(page)
    assert secret.encode() not in stored
    assert PASSWORD.encode() not in stored


def _wal(page: Page) -> bytes:
    return page.app.state.node.access_file.with_name("access.sqlite-wal").read_bytes()


def test_a_new_password_ends_the_sessions_of_the_old_one_and_a_lower_role_counts_at_once(page):
    users = page.access.users
    users.put("temp", "operator", PASSWORD)
    browser = page.browser("temp")
    assert browser.get("/accesses").status_code == 200
    with page.access.database.writing() as database:
        database.execute("UPDATE user SET role = 'reader' WHERE name = 'temp'")
    assert browser.get("/accesses").status_code == 403
    users.put("temp", "reader", PASSWORD + "!")
    assert browser.get("/").status_code == 401
    browser.sign_in("temp", PASSWORD + "!")
    assert browser.get("/").status_code == 200
    assert users.remove("temp")
    assert browser.get("/").status_code == 401


@pytest.mark.parametrize(("column", "hours"), [("seen", 0.51), ("began", 10.01)])
def test_a_session_ends_by_itself(page, column, hours):
    browser = page.browser("rita")
    with page.access.database.writing() as database:
        database.execute(f"UPDATE session SET {column} = {column} - ? WHERE user = 'rita'", (hours * 3600,))
    assert browser.get("/").status_code == 401


def test_guessing_must_wait_and_locks_out_nobody_else(tmp_path, clock):
    with page_of(tmp_path / "state") as page:
        usual, guessing = page.browser(), page.browser(address="127.0.0.9")
        assert usual.sign_in("rita").status_code == 303
        answers = [guessing.sign_in("rita", f"guess number {n}") for n in range(7)]
        assert [answer.status_code for answer in answers] == [401] * 5 + [429] * 2
        assert 0 < int(answers[-1].headers["Retry-After"]) <= 2
        assert guessing.sign_in("rita").status_code == 429  # the right one, too
        assert page.browser().sign_in("rita").status_code == 303
        assert page.browser(address="127.0.0.9").sign_in("ray").status_code == 303
        clock.seconds += 1.01
        assert guessing.sign_in("rita", "guess").status_code == 401
        assert int(guessing.sign_in("rita").headers["Retry-After"]) >= 2  # longer than before
        # Many machines, then many names from one: people who have signed in from a machine before still get in.
        for n in range(16):
            page.access.limits.failed("rita", f"10.0.0.{n}")
        assert page.browser(address="127.0.0.10").sign_in("rita").status_code == 429
        for n in range(40):
            page.access.limits.failed(f"nobody{n}", "127.0.0.1")
        assert page.browser().sign_in("ann").status_code == 429
        assert page.browser().sign_in("rita").status_code == 303


@pytest.mark.usefixtures("clock")
def test_who_has_many_addresses_has_no_more_guesses(tmp_path, clock):
    """A machine takes any of the 2^64 addresses of its IPv6 network, so these count as one."""
    limits = Limits(Database(tmp_path / "access.sqlite"))
    for number in range(41):
        limits.failed(f"user{number}", f"2001:db8::{number:x}")
    assert limits.wait_seconds("another", "2001:db8::ffff") > 0
    assert limits.wait_seconds("another", "2001:db8:0:1::1") == 0
    limits.succeeded("ann", "2001:db8::5")
    assert limits.wait_seconds("ann", "2001:db8::5") == 0
    assert limits.wait_seconds("ann", "2001:db8::6") > 0


def test_who_was_signed_out_by_time_is_told_that_nothing_was_saved(page):
    browser = page.browser("ray")
    token = browser.token
    browser.cookies.clear()
    study = "/study/0123456789abcdef"
    given = {"csrf": token, "revision": "1", "number": "0", "kind": "comment", "comment": "long"}
    headers = HTML | {"Origin": page.url, "Referer": f"{page.url}{study}?said=agree"}
    answer = browser.post(f"{study}/feedback", data=given, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert "Your session has ended, and nothing was saved." in answer.text
    assert 'href="/login?next=%2Fstudy%2F0123456789abcdef"' in answer.text
    elsewhere = browser.post(f"{study}/feedback", data=given, headers=HTML | {"Referer": "https://evil.example/x"})
    assert "evil" not in elsewhere.text
    assert 'href="/login?next=%2F"' in elsewhere.text


def test_failures_without_a_name_hold_back_nobody_elsewhere(page):
    """Of single sign-on and of the first operator's token: anybody can make them."""
    limits = page.access.limits
    for n in range(30):
        limits.failed("", f"10.1.0.{n}")
    assert limits.wait_seconds("", "10.1.1.1") == 0
    for _ in range(6):
        limits.failed("", "10.1.0.1")
    assert limits.wait_seconds("", "10.1.0.1") > 0


@pytest.mark.usefixtures("clock")
def test_guesses_at_once_are_counted_as_guesses_in_turn(tmp_path):
    with page_of(tmp_path / "state") as page:
        page.access.users.put("slow", "reader", PASSWORD)
        browsers = [page.browser(address="127.0.0.9") for _ in range(20)]
        tokens = [re.findall(r'name="csrf" value="([0-9a-f]*)"', one.get("/login").text)[0] for one in browsers]
        with ThreadPoolExecutor(20) as pool:
            guesses = [
                pool.submit(
                    one.post, "/login", data={"csrf": token, "name": "slow", "password": f"guess {token}"}, headers=HTML
                )
                for one, token in zip(browsers, tokens, strict=True)
            ]
        assert sorted(guess.result().status_code for guess in guesses) == [401] * 5 + [429] * 15
        assert page.events().count(("slow", "not signed in")) == 5  # blocked attempts do not fill the record


def test_an_unknown_name_takes_as_long_and_is_not_written_down(page):
    page.access.users.put("slow", "reader", PASSWORD)
    seconds = []
    for name in ("slow", "no such body"):
        browser = page.browser(address="127.0.0.11")
        browser.get("/login")
        began = time.process_time()  # the page answers in this process; the load of others does not count
        assert browser.sign_in(name, "wrong password").text.count("Name or password is wrong.") == 1
        seconds.append(time.process_time() - began)
    assert seconds[1] > seconds[0] / 4
    assert page.events()[-2:] == [("slow", "not signed in"), ("unknown", "not signed in")]
    assert b"no such body" not in Path(page.app.state.node.access_file).read_bytes() + _wal(page)


def test_goals_elsewhere_are_not_followed(page):
    for goal in ("//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a\r\nX: y"):
        answer = page.browser().form("/login", "/login", name="rita", password=PASSWORD, next=goal)
        assert (answer.status_code, answer.headers["Location"]) == (303, "/"), goal


def test_the_first_operator_needs_the_token_once(tmp_path):
    with page_of(tmp_path / "state") as page:
        for name in PEOPLE:
            page.access.users.remove(name)
        old, token = page.access.users.first_token(), page.access.users.first_token()
        browser = page.browser()
        made = {"name": "zoe", "password": PASSWORD}
        assert browser.form("/first", "/first", token=old, **made).status_code == 403
        assert browser.form("/first", "/first", token=token, name="zoe", password="short").status_code == 422
        assert browser.form("/first", "/first", token=token, **made).status_code == 303
        assert browser.get("/accesses").status_code == 200
        again = page.browser().form("/first", "/first", token=token, name="eve", password=PASSWORD)
        assert again.status_code == 403
        assert page.access.users.first_token() is None
        stored = page.access.database.rows("SELECT hash FROM first_token")
        assert token not in str(stored)


def test_over_tls_the_cookie_is_for_this_machine_alone(tmp_path):
    key, pem = certificate(tmp_path, "page")
    with page_of(tmp_path / "state", {"certificate": pem, "key": key}) as page:
        browser = page.browser(verify=str(pem))
        told = browser.sign_in("rita").headers["Set-Cookie"].split("; ")
        assert told[0].startswith("__Host-session=")
        assert set(told[1:]) == {"HttpOnly", "Path=/", "SameSite=strict", "Secure"}
        answer = browser.get("/")
        assert answer.status_code == 200
        assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"


def test_every_answer_binds_the_browser(page):
    browser = page.browser("ann")
    for path in ("/", "/login", "/none", "/static/review.css", "/style.css", "/accesses", "/report", "/load"):
        headers = browser.get(path, headers=HTML).headers
        assert "default-src 'self'" in headers["Content-Security-Policy"], path
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "server" not in headers
        if "static" not in path and "css" not in path:
            assert headers["Cache-Control"] == "no-store", path
    assert "SameSite=strict" in browser.get("/login").headers.get("Set-Cookie", "SameSite=strict")


def test_static_files_are_all_there_is(page):
    escapes = ("/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static//etc/passwd", "/static/")
    for path in (*escapes, "/static/%5c..%5capp.py", "/static/....//app.py"):
        answer = raw(page.port, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), path
        assert b"import" not in answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: localhost.evil.example\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: localhost@evil.example\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        ("GET /health HTTP/1.1\r\n\r\n", 400),
        ("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n", 400),
        ("POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding : chunked\r\n\r\n", 400),
        ("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nContent-Length: 40\r\n\r\n", 400),
        ("POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: +4\r\n\r\n", 400),
        (f"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: {LARGEST_BODY + 1}\r\n\r\n", 413),
        ("GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + "a" * 40_000 + "\r\n\r\n", 431),
    ],
)
def test_what_is_ambiguous_or_large_is_refused(page, head, status):
    smuggled = b"0\r\n\r\nGET /accesses HTTP/1.1\r\nHost: localhost\r\n\r\n" if status != 200 else b""
    answer = raw(page.port, head.encode() + smuggled)
    assert answer.split(b" ", 2)[1] == str(status).encode(), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1, "a second request was heard in the first one's body"


def test_a_body_without_a_length_is_counted_as_it_comes(page):
    head = (
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    )
    chunk = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    assert b" 413 " in raw(page.port, head, *([chunk] * 6)).partition(b"\r\n")[0]


def test_who_sends_half_a_request_is_not_waited_for(page, monkeypatch):
    from med_transfer.hospital.review.request_timeout import TimeoutProtocol

    monkeypatch.setattr(TimeoutProtocol, "seconds", 0.2)
    for half in (b"GET /hea", b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nab"):
        with socket.create_connection(("127.0.0.1", page.port), timeout=240) as connection, suppress(ConnectionError):
            connection.sendall(half)
            while connection.recv(65536):  # until it is closed, else TimeoutError
                pass


def test_the_record_is_of_fhir_and_names_no_password(page):
    from fhir.resources.R4B.auditevent import AuditEvent

    browser: Browser = page.browser("ann")
    browser.get("/accesses")
    events = list(page.access.audit.events())
    for event in events:
        AuditEvent.model_validate(event)
    assert events[-1]["agent"][0]["altId"] == "ann"
    assert events[-1]["agent"][0]["network"]["address"] == "127.0.0.1"
    assert page.access.audit.audit().broken == 0
    with pytest.raises(sqlite3.IntegrityError, match="append-only"), page.access.database.writing() as database:
        database.execute("UPDATE record SET entry = '{}' WHERE number = 1")


def test_nobody_waits_while_the_record_is_checked(tmp_path, monkeypatch):
    """``node audit`` of a large record takes minutes, and every look at a study is written down."""
    written = []

    def hashed(previous: str, entry: str) -> str:
        with closing(sqlite3.connect(tmp_path / "access.sqlite", timeout=0)) as page:
            page.execute("DELETE FROM session")
            page.commit()
        written.append(entry)
        return own_hash(previous, entry)

    database = Database(tmp_path / "access.sqlite")
    trail, own_hash = AuditTrail(database, "NODE"), record._hash
    trail.tell("saw load", "ann", "127.0.0.1")
    monkeypatch.setattr(record, "_hash", hashed)
    assert (trail.audit().entries, len(written)) == (1, 1)
    database.close()
