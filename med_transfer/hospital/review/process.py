"""The page's process, as managed by the node: started, restarted with a growing delay if it exits, and stopped."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

OF_NODE = "MED_TRANSFER_PAGE_OF_NODE"  # process id of the node that started the page
_LONGEST_SECONDS, _WELL_SECONDS, _END_SECONDS = 60.0, 60.0, 10.0


class PageProcess:
    """Runs ``med-transfer node page`` from construction until ``stop``."""

    def __init__(self, config: Path) -> None:
        self._command = [sys.executable, "-m", "med_transfer", "node", "page", "-c", str(config)]
        self._stopped, self._starting = threading.Event(), threading.Lock()
        self._process = self._start()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Process id of the current process, or of the last one."""
        return self._process.pid

    def stop(self) -> None:
        """Terminate the process; kill it if it does not exit in time."""
        self._stopped.set()
        with self._starting:
            self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join()

    def _start(self) -> subprocess.Popen[bytes]:
        # In a new session, so that Ctrl-C reaches only the node, which then stops the page.
        environment = os.environ | {OF_NODE: str(os.getpid())}
        return subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    def _watch(self) -> None:
        failures, began = 0, time.monotonic()
        while True:
            code = self._process.wait()
            if self._stopped.is_set():
                return
            failures = 1 if time.monotonic() - began > _WELL_SECONDS else failures + 1
            wait = min(_LONGEST_SECONDS, 0.5 * 2.0**failures)
            log.warning("the review page has ended with code %s; it starts again in %g s", code, wait)
            if self._stopped.wait(wait):
                return
            with self._starting:
                if self._stopped.is_set():
                    return
                began = time.monotonic()
                with suppress(OSError):  # no memory for a process; counts as another failure
                    self._process = self._start()
