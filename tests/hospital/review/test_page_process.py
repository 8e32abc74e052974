"""The page as a process beside the node, and the commands that grant access."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import requests
from browsing import PASSWORD
from peers import free_port, until

from med_transfer.hospital.review.process import PageProcess


@pytest.fixture
def config(tmp_path: Path) -> tuple[Path, str]:
    """node.yaml and the page's address."""
    port = free_port()
    path = tmp_path / "node.yaml"
    path.write_text(f"folder: state\npage: {{port: {port}}}\n")
    return path, f"http://127.0.0.1:{port}"


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=5).text == "ok\n"
    except requests.RequestException:
        return False


def test_a_page_that_is_killed_starts_again_and_ends_with_its_node(config, capfd):
    path, url = config
    page = PageProcess(path)
    try:
        until(lambda: answers(url))
        first = page.pid
        assert len(os.sched_getaffinity(first)) == 1
        assert os.getpgid(first) == os.getsid(first) == first  # a Ctrl-C in the node's terminal does not reach it
        os.kill(first, signal.SIGKILL)
        until(lambda: page.pid != first and answers(url))
        assert (path.parent / "state" / "access.sqlite").stat().st_mode & 0o077 == 0
    finally:
        page.stop()
    assert not answers(url)
    with pytest.raises(ProcessLookupError):
        os.kill(page.pid, 0)
    told = capfd.readouterr()
    assert "Create the first operator at http://127.0.0.1" in told.out + told.err
    assert "error" not in told.out + told.err  # a request to stop is not a failure


def test_a_page_that_cannot_be_started_now_is_started_later(config, monkeypatch):
    path, url = config
    start, tried = PageProcess._start, []

    def no_memory_once(self: PageProcess):
        tried.append(self)
        if len(tried) == 2:
            raise BlockingIOError(errno.EAGAIN, "no process")
        return start(self)

    monkeypatch.setattr(PageProcess, "_start", no_memory_once)
    page = PageProcess(path)
    try:
        os.kill(page.pid, signal.SIGKILL)
        until(lambda: len(tried) == 3 and answers(url))
    finally:
        page.stop()


def test_who_may_sign_in_is_told_by_command(command, config, monkeypatch, tmp_path):
    path, _ = config
    assert command("node", "user", "list", "-c", path).out == ""
    for given, code, said in (("short\n", 2, "12 to 512"), (f"{PASSWORD}\n", 0, "zoe may sign in as reviewer")):
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        told = command("node", "user", "add", "zoe", "-c", path, "--role", "reviewer")
        assert told.code == code
        assert said in told.out + told.err
        assert given.strip() not in told.out + told.err
    assert command("node", "user", "list", "-c", path).out == "zoe reviewer\n"
    assert command("node", "user", "remove", "zoe", "-c", path).code == 0
    assert command("node", "user", "remove", "zoe", "-c", path).code == 2
    assert command("node", "export", "--accesses", "-c", path, "-o", tmp_path / "accesses.jsonl").code == 0
    told = [json.loads(line) for line in (tmp_path / "accesses.jsonl").read_text().splitlines()]
    done = [(event["subtype"][0]["display"], event["outcomeDesc"]) for event in told]
    assert done == [("added user", "zoe as reviewer"), ("removed user", "zoe")]


def test_the_audit_record_is_exported_and_checked(command, config, tmp_path):
    from med_transfer.hospital.config import read_node_config
    from med_transfer.hospital.queue import Queue
    from med_transfer.hospital.review.access.access import Access

    node = read_node_config(config[0])
    assert node.page is not None
    Queue(node.queue_file).close()
    access = Access(node, node.page)
    access.audit.tell("saw load", "ann", "10.0.0.7")
    access.close()
    out = tmp_path / "audit.jsonl"
    assert command("node", "export", "--accesses", "-c", config[0], "-o", out).code == 0
    assert [json.loads(line)["resourceType"] for line in out.read_text().splitlines()] == ["AuditEvent"]
    # The export is the second.
    assert "2 entries of the review page, unbroken" in command("node", "audit", "-c", config[0]).out


@pytest.mark.parametrize(
    ("page", "mistake"),
    [
        ("{bind: 0.0.0.0}", "without certificate and key"),
        ("{bind: 0.0.0.0, certificate: a, key: b}", "without names"),
        ("{certificate: a}", "both or none"),
        ("{certificate: none.pem, key: none.key}", "none.pem"),
        ("{names: ['*']}", "names"),
        ("{oidc: {issuer: 'http://idp', client_id: c, roles: {a: reader}}}", "issuer"),
        ("{oidc: {issuer: 'https://idp', client_id: c, roles: {a: admin}}}", "reader"),
        ("{oidc: {issuer: 'https://idp', client_id: c, roles: {}}}", "roles"),
    ],
)
def test_a_page_that_would_be_open_does_not_start(command, tmp_path, page, mistake):
    (tmp_path / "node.yaml").write_text(f"folder: state\npage: {page}\n")
    told = command("node", "page", "-c", tmp_path / "node.yaml")
    assert told.code == 2
    assert mistake in told.err
