"""A folder that fills: each scan is predicted when it is complete, for as long as one likes.

Complete is a scan whose files nothing has changed for a while: neither their number nor a size, a time or an inode of
one. That is seen by looking again, not told by the files' times, which a copy may keep and which another machine's
clock made; and not by the system's own notice of changes (inotify), which does not reach over network shares.
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
from med_transfer.inference.listing import ScanToPredict, scans_to_predict
from med_transfer.inference.shards import WHOLE
from med_transfer.progress import Progress, silent
from med_transfer.scans.search.links import files_to_look_at
from med_transfer.scans.stamps import stamps

log = logging.getLogger(__name__)

_ATTEMPTS = 3  # at a scan that ends its reader, or the whole folder would wait for it each time another one arrives


@dataclass(frozen=True)
class WatchSettings:
    """When to look, and when a scan is complete.

    Attributes:
        quiet_seconds: without any change of its files, after which a scan counts as complete.
        poll_seconds: between two looks at the folder.
        stop: set, from another thread or a signal, it ends the watch after the scans that are under way.
        clock: seconds that only grow.
    """

    quiet_seconds: float = 60.0
    poll_seconds: float = 10.0
    stop: Event = field(default_factory=Event)
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        """Raises UsageError."""
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
    """Predict what arrives in a folder, until told to stop; the outcome after each round that had something to do.

    Between rounds ``out/predictions.csv`` is that of :func:`~med_transfer.inference.folder.predict_all` on the scans
    that are complete: a scan that changes loses its row, and gets a new one when it is complete again.

    Raises:
        UsageError: not a folder, or shards, which would each see another state of it; else as ``predict_all``.
        CohortError, OutputError: as there.
    """
    watching = watching or WatchSettings()
    if not folder.is_dir():
        raise UsageError("not a folder", where=folder, expected="with --watch, a folder that scans arrive in")
    if settings.shard != WHOLE:
        raise UsageError("a shard", where="--shard", expected="without --watch: shards are of scans that all are there")
    if out.resolve().is_relative_to(folder.resolve()):
        raise UsageError("within the folder that is watched", where=out, expected="another place for what is written")
    tree, complete = _Tree(folder, predictor, watching), None
    attempts: Counter[str] = Counter()

    def tries_again(key: str) -> bool:
        attempts[key] += 1
        return attempts[key] < _ATTEMPTS

    settings = replace(settings, stopped=watching.stop.is_set, tries_again=tries_again)
    while not watching.stop.is_set():
        before, complete = complete, tree.complete()
        all_changed = before and tree.items and not complete  # and not: nothing can be seen
        if all_changed or (complete and complete != before):
            items = [tree.items[name] for name in complete]
            yield predict_items(predictor, folder, items, out, progress, settings)
        watching.stop.wait(watching.poll_seconds)


Name = tuple[str, str]


@dataclass
class _Tree:
    """What lies in the folder, and since when it has been as it is."""

    folder: Path
    predictor: Predicts
    watching: WatchSettings
    items: dict[Name, ScanToPredict] = field(default_factory=dict)
    _files: bytes = b""
    _keys: dict[Name, str] = field(default_factory=dict)
    _since: dict[Name, float] = field(default_factory=dict)

    def complete(self) -> dict[Name, str]:
        """Scans that have not changed for long enough, with the key of what each is made from."""
        now, files = self.watching.clock(), _files_of(self.folder)
        if files != self._files and self._look(now):
            self._files = files  # until they change there is no header to look at
        return {name: key for name, key in self._keys.items() if now - self._since[name] >= self.watching.quiet_seconds}

    def _look(self, now: float) -> bool:
        """Whether the folder could be looked through."""
        try:
            items, _ = scans_to_predict(self.folder, self.predictor.preprocessing.config)
        except ScanError:  # none yet; or none for now, as where a network drive is away: rows that are there stay
            items = []
        away = [item.case.path for item in items if item.damage and self._holds_scans(item.case.path)]
        if away:
            log.warning("%s: cannot be opened now; the scans in it are waited for", away[0])
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
    for path in files_to_look_at(folder):
        digest.update(repr((str(path), stamps([path]))).encode("utf-8", "surrogateescape"))
    return digest.digest()
