"""Download a published weights file, only on the user's command; nothing else here opens a connection."""

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
    """Download the published file of a backbone into the store folder, and return its path.

    Licence and hash are checked by ``load_backbone``, not here.

    Args:
        spec: the backbone; its source must have a download address.
        progress: called with bytes received and in total (0 if unknown); the stage is the backbone's name.

    Raises:
        WeightsNotFound: there is no address, no connection, or the download is incomplete; the message says what to
            download by hand and where to put it.
        UnsafeWeights: the address or a redirect is not https.
        OutputError: the file cannot be written.
    """
    source = spec.weights
    if source is None or not source.download_url:
        page = f"Download it from {source.url} by hand" if source else "It starts from random values"
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
    """A failed connection; not an OSError, which inside ``atomic_path`` would count as a disk error."""


class NotHttps(DownloadFailed):
    """The address, or a redirect, is not https."""


def download_file(url: str, target: Path, progress: Progress = silent) -> None:
    """Download one file atomically.

    Raises:
        DownloadFailed: there is no connection, or the download is incomplete.
        NotHttps: the address or a redirect is not https.
        OutputError: the file cannot be written.
    """
    try:
        _require_https(url)
        with urllib.request.build_opener(_OnlyToHttps).open(url, timeout=_TIMEOUT_SECONDS) as answer:
            _write(_chunks(answer, progress), target)
    except (OSError, http.client.HTTPException) as error:  # a timeout is not a URLError
        raise DownloadFailed(str(getattr(error, "reason", error))) from error


class _OnlyToHttps(urllib.request.HTTPRedirectHandler):
    """Refuse an insecure redirect before it is followed: checking only the final address would be too late."""

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
