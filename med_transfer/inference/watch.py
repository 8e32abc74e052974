"""Watch a folder that is still filling, and predict each scan once it is complete, until stopped.

A scan is complete once its files have not changed for a while, neither in number nor in size, modification time or
inode. This is found by polling. How old a modification time is says nothing, since copying may preserve it, or it may
come from another machine's clock. Notification by the operating system (inotify) does not cover network shares.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event

from med_transfer.errors import ScanError, UsageError
from med_transfer.inference.folder import BatchSettings, FolderOutcome, Predicts, predict_items
from med_transfer.inference.listing import ScanToPredict, require_outside, scans_to_predict
from med_transfer.inference.shards import WHOLE
from med_transfer.progress import Progress, silent
from med_transfer.scans.search.links import visible_files
from med_transfer.scans.stamps import stamps

log = logging.getLogger(__name__)

_ATTEMPTS = 3  # at a scan that crashes its reader; without a limit, each new arrival would make the folder wait for it


@dataclass(frozen=True)
class WatchSettings:
    """When to look, and when a scan is complete.

    Attributes:
        quiet_seconds: how long a scan's files must stay unchanged to count as complete.
        poll_seconds: time between two looks at the folder.
        stop: set from another thread or a signal handler, ends the watch after the scans in progress.
        clock: monotonic clock, in seconds.
    """

    quiet_seconds: float = 60.0
    poll_seconds: float = 10.0
    stop: Event = field(default_factory=Event)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Check the settings. Raises UsageError."""
        for name in ("quiet_seconds", "poll_seconds"):
            if not 0 < getattr(self, name) < 1e6:
                raise UsageError(f"{getattr(self, name):g}", where=name, expected="seconds, more than 0")


def watch(
    predictor: Predicts,
    folder: Path,
    out: Path,
    progress: Progress = silent,
    settings: BatchSettings = BatchSettings(),  # noqa: B008
    watching: WatchSettings | None = None,
) -> Iterator[FolderOutcome]:
    """Predict scans as they arrive in a folder, until stopped; yield the outcome of each round that changed something.

    Between rounds ``out/predictions.csv`` equals the result of :func:`~med_transfer.inference.folder.predict_all` on
    the complete scans: a scan that changes loses its row, and gets a new one once it is complete again.

    Raises:
        UsageError: ``folder`` is not a folder, ``out`` lies within it, or a shard was requested, since each shard would
            see the folder in another state; else as for ``predict_all``.
        CohortError, FolderInUse, OutputError: as for ``predict_all``.
    """
    watching = watching or WatchSettings()
    if not folder.is_dir():
        raise UsageError("not a folder", where=folder, expected="with --watch, a folder that scans arrive in")
    if settings.shard != WHOLE:
        raise UsageError("a shard", where="--shard", expected="without --watch: shards are of scans that all are there")
    require_outside(out, folder)
    tree, complete = _Tree(folder, predictor, watching), None
    attempts: Counter[str] = Counter()

    def tries_again(key: str) -> bool:
        attempts[key] += 1
        return attempts[key] < _ATTEMPTS

    settings = replace(settings, stopped=watching.stop.is_set, tries_again=tries_again)
    while not watching.stop.is_set():
        before, complete = complete, tree.complete()
        all_changed = before and tree.items and not complete  # not merely an unreachable folder
        if all_changed or (complete and complete != before):
            items = [tree.items[name] for name in complete]
            yield predict_items(predictor, folder, items, out, progress, settings)
        watching.stop.wait(watching.poll_seconds)


Name = tuple[str, str]


@dataclass
class _Tree:
    """The scans in the folder, and since when each has been unchanged."""

    folder: Path
    predictor: Predicts
    watching: WatchSettings
    items: dict[Name, ScanToPredict] = field(default_factory=dict)
    _files: bytes = b""
    _keys: dict[Name, str] = field(default_factory=dict)
    _since: dict[Name, float] = field(default_factory=dict)

    def complete(self) -> dict[Name, str]:
        """Scans that have been unchanged for long enough, each with the key of everything that its row depends on."""
        now, files = self.watching.clock(), _files_of(self.folder)
        if files != self._files and self._look(now):
            self._files = files  # headers need not be read again until files change
        return {name: key for name, key in self._keys.items() if now - self._since[name] >= self.watching.quiet_seconds}

    def _look(self, now: float) -> bool:
        """List the scans again; False if part of the folder cannot be opened now."""
        try:
            items, _ = scans_to_predict(self.folder, self.predictor.preprocessing.config)
        except ScanError:  # none yet, or a network drive is away, in which case existing rows stay
            items = []
        away = [item.case.path for item in items if item.damage and self._holds_scans(item.case.path)]
        if away:
            log.warning("%s: cannot be opened now; waiting for the scans in it", away[0])
            return False
        self.items = {item.name: item for item in items}
        keys = {name: item.key(self.predictor.preprocessing) for name, item in self.items.items()}
        self._since = {name: self._since[name] if self._keys.get(name) == key else now for name, key in keys.items()}
        self._keys = keys
        return True

    def _holds_scans(self, folder: Path) -> bool:
        return any(folder in item.case.path.parents for item in self.items.values())


def _files_of(folder: Path) -> bytes:
    """Hash of the names and stamps of all files."""
    digest = hashlib.sha256()
    for path in visible_files(folder):
        digest.update(repr((str(path), stamps([path]))).encode("utf-8", "surrogateescape"))
    return digest.digest()
