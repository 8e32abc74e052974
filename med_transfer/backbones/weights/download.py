"""Fetches a published weights file, only when a user asks for it by command. Nothing else here opens a connection."""

from __future__ import annotations

import http.client
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from med_transfer.atomic import atomic_path
from med_transfer.backbones.spec import BackboneSpec
from med_transfer.backbones.weights.store import store_folder
from med_transfer.errors import UnsafeWeights, WeightsNotFound
from med_transfer.progress import Progress, named, silent

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30.0
_LOCAL = ("127.0.0.1", "localhost", "::1")


def download_weights(spec: BackboneSpec, progress: Progress = silent) -> Path:
    """Fetch the published file of a backbone into the store folder; returns its path.

    Licence and hash are checked by ``load_backbone``, not here.

    Args:
        spec: the backbone; its source must name an address.
        progress: told bytes received and bytes in all (0 when the server does not say); the stage is the backbone.

    Raises:
        WeightsNotFound: there is no address, no connection, or the file came incomplete; says what to fetch by hand
            and where to put it.
        UnsafeWeights: the address, or one it leads to, is not https.
        OutputError: the file cannot be written.
    """
    source = spec.weights
    if source is None or not source.download_url:
        page = f"It is to be had from {source.url} by hand" if source else "It starts from random values"
        raise WeightsNotFound(f"backbone {spec.name} has no address to download from", action=page)
    target = store_folder() / source.file
    try:
        download_file(source.download_url, target, named(progress, spec.name))
    except NotHttps as error:
        raise UnsafeWeights(str(error), where=source.download_url, expected="https") from error
    except DownloadFailed as error:
        raise WeightsNotFound(
            f"{source.file} cannot be downloaded ({error})",
            where=source.download_url,
            action=f"Fetch it on a machine with a connection and put it into {target.parent}, or give its path",
        ) from error
    return target


class DownloadFailed(Exception):
    """No connection, or one that broke; no OSError, which inside ``atomic_path`` would mean the disk."""


class NotHttps(DownloadFailed):
    """An address, or one that it leads to, is not https."""


def download_file(url: str, target: Path, progress: Progress = silent) -> None:
    """Fetch one file, whole or not at all.

    Raises:
        DownloadFailed: no connection, or the file came incomplete.
        NotHttps: see there.
        OutputError: the file cannot be written.
    """
    try:
        _require_https(url)
        with urllib.request.build_opener(_OnlyToHttps).open(url, timeout=_TIMEOUT_SECONDS) as answer:
            _write(_chunks(answer, progress), target)
    except (OSError, http.client.HTTPException) as error:  # one who never answers is no URLError
        raise DownloadFailed(str(getattr(error, "reason", error))) from error


class _OnlyToHttps(urllib.request.HTTPRedirectHandler):
    """Refuses a redirect before it is followed: where it leads may lead back, and would have been asked."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _chunks(answer: http.client.HTTPResponse, progress: Progress) -> Iterator[bytes]:
    total, done = int(answer.headers.get("Content-Length") or 0), 0
    while True:
        try:
            chunk = answer.read(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise DownloadFailed(str(error)) from error
        if not chunk:
            break
        done += len(chunk)
        progress("download", done, total)
        yield chunk
    if done < total:
        raise DownloadFailed(f"{done} of {total} bytes came")


def _write(chunks: Iterable[bytes], target: Path) -> None:
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        file.writelines(chunks)


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise NotHttps(f"an address of {parts.scheme or 'no scheme'}")
