"""Diagnosis of a machine and a node: each finding has a code, a value, and a sentence for whoever has to fix it."""

from __future__ import annotations

import errno
import importlib.util
import logging
import os
import platform
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import requests
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydicom.uid import UID

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.errors import FolderInUse, MedTransferError, OutputError, UsageError
from med_transfer.hospital import record
from med_transfer.hospital.analysis import require_usable
from med_transfer.hospital.association import associate, rejection_code
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.database import read_only
from med_transfer.hospital.dicomweb import read_token
from med_transfer.hospital.folder_owner import require_not_root_for_another
from med_transfer.hospital.queue.removed_routes import removed_route_answers
from med_transfer.hospital.queue.schema import bundles_in_use
from med_transfer.hospital.receiver import VERIFICATION
from med_transfer.hospital.review.access.oidc import read_client_secret
from med_transfer.hospital.routing import removed_routes_message
from med_transfer.hospital.settings.peers import FhirServer, Peer, WebPeer
from med_transfer.hospital.storage_classes import TRANSFER_SYNTAXES
from med_transfer.hospital.tls import client_context
from med_transfer.inference import load_bundle
from med_transfer.scans.dicom.codecs import require_decoder

State = Literal["ok", "warning", "problem"]
RUNTIMES = {"torch": "torch", "openvino": "openvino", "onnx": "onnxruntime"}
_EXPIRES_SOON_DAYS, _SKEW_SECONDS, _FULL = 30, 60.0, 2.0


@dataclass(frozen=True)
class Finding:
    """One finding; ``code`` is stable across versions, ``value`` is for programs, ``text`` for people."""

    code: str
    state: State
    value: str | float | None
    text: str


def examine_machine() -> Iterator[Finding]:
    """Examine what does not depend on a node: Python, codecs and runtimes."""
    yield Finding("python", "ok", platform.python_version(), f"Python {platform.python_version()}")
    missing = [UID(syntax).name for syntax in TRANSFER_SYNTAXES if not _decodes(syntax)]
    text = f"images in {', '.join(missing)} cannot be read" if missing else "every transfer syntax can be read"
    yield Finding("codecs", "problem" if missing else "ok", len(TRANSFER_SYNTAXES) - len(missing), text)
    found = [name for name, package in RUNTIMES.items() if importlib.util.find_spec(package)]
    yield Finding("runtimes", "ok", ",".join(found), f"bundles can be computed by {', '.join(found)}")


def examine(node: NodeConfig) -> Iterator[Finding]:
    """Examine everything that node.yaml names; sends only C-ECHO and HTTP requests, without any patient data."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)
    try:
        running = _runs(node)
    except OutputError as error:
        yield Finding("folder", "problem", None, str(error))
        return
    try:
        require_not_root_for_another(node)
    except UsageError as error:  # root may read every key; the node's user need not
        yield Finding("user", "warning", None, str(error))
    text = "the node runs" if running else "no node runs here"
    yield Finding("running", "ok", float(running), f"{text}: {node.folder}")
    yield from _disk(node)
    yield from _ports(node, running)
    yield from _certificates(node)
    yield from _tokens(node)
    yield _clock_of_disk(node)
    for peer in node.dicom_peers:
        yield _echo(node, peer)
    for web_peer in node.web_peers:
        yield from _http(node, web_peer)
    yield from _queue(node)


def _decodes(syntax: str) -> bool:
    try:
        require_decoder(syntax, "")
    except MedTransferError:
        return False
    return True


def _runs(node: NodeConfig) -> bool:
    if not node.folder.exists():
        return False
    try:
        with sole_writer(node.folder):
            return False
    except FolderInUse:
        return True


def _disk(node: NodeConfig) -> Iterator[Finding]:
    folder = next(path for path in (node.folder, *node.folder.parents) if path.exists())
    free, required = shutil.disk_usage(folder).free / (1 << 30), node.limits.disk_free_gib
    state: State = "problem" if free < required else "warning" if free < _FULL * required else "ok"
    yield Finding(
        "disk_free_gib", state, round(free, 1), f"{free:.1f} GiB are free; below {required:g} nothing is taken"
    )
    if node.folder.exists() and node.folder.stat().st_mode & 0o077:
        yield Finding("folder_mode", "problem", None, f"others may read {node.folder}: chmod 700 {node.folder}")


def _ports(node: NodeConfig, running: bool) -> Iterator[Finding]:
    servers = {"port": node, "web_port": node.web, "metrics_port": node.metrics, "page_port": node.page}
    for code, server in servers.items():
        if server is None:
            continue
        error = _bind(server.bind, server.port)
        if error in (0, errno.EADDRINUSE):
            good = bool(error) == running
            held = "is not open though the node runs" if running else "is free"
            taken = "is in use, as expected while the node runs" if running else "is in use by another program"
            text = taken if error else held
        else:
            good, text = False, f"cannot be opened: {os.strerror(error)}"
        yield Finding(code, "ok" if good else "problem", server.port, f"{server.bind} port {server.port} {text}")


def _bind(address: str, port: int) -> int:
    """Try to bind a port; return 0, or the errno of the failure."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error.errno or errno.EIO
    return 0


def _certificates(node: NodeConfig) -> Iterator[Finding]:
    for name, section in {"tls": node.tls, "web": node.web, "page": node.page}.items():
        if section is not None and section.certificate and section.key:
            yield _examined(f"{name}_certificate", _pair, section.certificate, section.key)
        if section is not None and (trusted := getattr(section, "trusted", None)):
            yield _examined(f"{name}_trusted", _valid, trusted)
    if node.page and node.page.oidc and node.page.oidc.trusted:
        yield _examined("oidc_trusted", _valid, node.page.oidc.trusted)
    for peer in node.web_peers:
        if peer.trusted:
            yield _examined("peer_trusted", _valid, peer.trusted)
        if isinstance(peer, WebPeer) and peer.certificate and peer.key:
            yield _examined("peer_certificate", _pair, peer.certificate, peer.key)


def _examined(code: str, look: Callable[..., tuple[State, float, str]], *files: Path) -> Finding:
    try:
        return Finding(code, *look(*files))
    except (OSError, ValueError, TypeError) as error:
        return Finding(
            code, "problem", None, f"cannot be read: {getattr(error, 'strerror', None) or type(error).__name__}"
        )


def _pair(certificate: Path, key: Path) -> tuple[State, float, str]:
    """Whether certificate and key belong together, and for how many days the certificate is still valid."""
    own = serialization.load_pem_private_key(key.read_bytes(), password=None)
    shown = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    if own.public_key() != shown.public_key():
        return "problem", 0.0, f"{key} is not the key of {certificate}"
    if key.stat().st_mode & 0o007:
        return "problem", 0.0, f"anyone on this machine may read the key: chmod 600 {key}"
    return _valid(certificate)


def _valid(path: Path) -> tuple[State, float, str]:
    """Number of days until the first of a file's certificates expires, with state and text."""
    now, certificates = datetime.now(UTC), x509.load_pem_x509_certificates(path.read_bytes())
    if any(one.not_valid_before_utc > now for one in certificates):
        return "problem", 0.0, f"{path} is not valid yet: is the clock right?"
    days = round(min((one.not_valid_after_utc - now).total_seconds() for one in certificates) / 86400, 1)
    state: State = "problem" if days <= 0 else "warning" if days < _EXPIRES_SOON_DAYS else "ok"
    return state, days, f"{path} {'has expired' if days <= 0 else f'is valid for {days:g} days'}"


def _tokens(node: NodeConfig) -> Iterator[Finding]:
    holders = [holder for holder in (node.web, *node.web_peers) if holder is not None]
    oidc = node.page.oidc if node.page else None
    files = [("token", read_token, holder.token) for holder in holders]
    for code, read, path in (*files, ("client_secret", read_client_secret, oidc.client_secret if oidc else None)):
        if path is None:
            continue
        try:
            read(path)
            yield Finding(code, "ok", None, f"{path} holds a {code.replace('_', ' ')}")
        except MedTransferError as error:
            yield Finding(code, "problem", None, str(error))


def _clock_of_disk(node: NodeConfig) -> Finding:
    """Compare the clock of the node folder's disk, which is another on a network drive, with this machine's. File times
    decide whether a lock's owner on another machine is still alive."""
    if not node.folder.exists():
        return Finding("clock_disk", "ok", None, f"{node.folder} is not there yet")
    mark = node.folder / ".clock"
    try:
        mark.touch()
        skew = mark.stat().st_mtime - time.time()
        mark.unlink()
    except OSError as error:
        return Finding("clock_disk", "problem", None, f"{mark} cannot be written: {error.strerror}")
    return _skew("clock_disk", skew, "the disk's")


def _skew(code: str, seconds: float, whose: str) -> Finding:
    state: State = "warning" if abs(seconds) > _SKEW_SECONDS else "ok"
    text = f"{whose} clock agrees with this machine's to the second"
    if whole := round(abs(seconds)):
        text = f"{whose} clock is {whole} s {'ahead of' if seconds > 0 else 'behind'} this machine's"
    return Finding(code, state, round(seconds, 1), text)


def _echo(node: NodeConfig, peer: Peer) -> Finding:
    try:
        tls = client_context(node, peer)
        with associate(node, peer, tls, [VERIFICATION]) as association:
            if association.is_established:
                answer = association.send_c_echo().get("Status", "no answer")
                outcome = "answers" if answer == 0 else f"answers {answer}"
            else:
                answer, outcome = None, rejection_code(association)
        why = "" if answer is not None or association.is_rejected else _why_not_connected(node, peer, tls)
    except MedTransferError as error:
        answer, outcome, why = None, error.found, ""
    return Finding("echo", "ok" if answer == 0 else "problem", outcome, f"C-ECHO to {peer.name}: {outcome}{why}")


def _why_not_connected(node: NodeConfig, peer: Peer, tls: ssl.SSLContext | None) -> str:
    """Why no connection to a peer can be opened, such as an unknown host name or an expired certificate."""
    try:
        with socket.create_connection((peer.address, peer.port), timeout=node.limits.network_seconds) as connection:
            if tls is not None:
                tls.wrap_socket(connection).close()
    except ssl.SSLError as error:
        return f" (TLS: {getattr(error, 'verify_message', '') or error.reason})"
    except (OSError, UnicodeError) as error:
        return f" ({getattr(error, 'strerror', None) or type(error).__name__})"
    return " (it accepts a connection and closes it: does it expect TLS, or none?)"


def _http(node: NodeConfig, peer: WebPeer | FhirServer) -> Iterator[Finding]:
    """Whether the peer answers by HTTP, with any status, and how far its Date header is from this machine's clock."""
    try:
        with requests.Session() as session:
            session.trust_env = False
            verify = str(peer.trusted) if peer.trusted else True
            pair = (str(peer.certificate), str(peer.key)) if isinstance(peer, WebPeer) and peer.certificate else None
            seconds = node.limits.network_seconds
            answer = session.options(peer.url, timeout=seconds, verify=verify, cert=pair, allow_redirects=False)
    except (requests.RequestException, OSError) as error:
        yield Finding("http", "problem", None, f"{peer.name} does not answer ({type(error).__name__})")
        return
    yield Finding("http", "ok", answer.status_code, f"{peer.name} answers")
    with suppress(KeyError, ValueError):  # a missing or malformed Date
        peer_time = parsedate_to_datetime(answer.headers["Date"]).timestamp()
        yield _skew("clock_http", peer_time - time.time(), f"{peer.name}'s")


def _queue(node: NodeConfig) -> Iterator[Finding]:
    if not node.queue_file.exists():
        yield Finding("bundle", "problem", None, "no bundle is in use: med-transfer serve BUNDLE, or node use")
        return
    try:
        with closing(read_only(node.queue_file)) as database:
            audit, marks = record.audit(database), bundles_in_use(database, node.rules_by_route)
            gone = removed_route_answers(database, {route: marks.get(route, "") for route in node.rules_by_route})
    except MedTransferError as error:
        yield Finding("queue", "problem", None, str(error))
        return
    text = f"entry {audit.broken} was changed" if audit.broken else f"{audit.entries} entries, unbroken"
    yield Finding("record", "problem" if audit.broken else "ok", audit.entries, f"the record: {text}")
    if message := removed_routes_message(gone):
        yield Finding("departed_routes", "warning", len(gone), message)
    for route in node.rules_by_route:
        named = f" for {route}" if route else ""
        try:
            folder = node.bundle_copy(marks[route])
            require_usable(load_bundle(folder, "cpu"), folder)
            yield Finding("bundle", "ok", marks[route], f"bundle {marks[route]} can be loaded{named}")
        except KeyError:
            yield Finding("bundle", "problem", None, f"no bundle is in use{named}: med-transfer node use")
        except MedTransferError as error:
            yield Finding("bundle", "problem", marks[route], f"cannot be loaded{named}: {error.found}")
