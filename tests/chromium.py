"""Headless Chromium, driven through a pipe by its own protocol (Chrome DevTools Protocol): no driver needed."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
COMMAND = next((found for name in NAMES if (found := shutil.which(name))), None)
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--remote-debugging-pipe",
    "--hide-scrollbars",
)


class Tab:
    """One page. ``events`` holds everything it told, in order."""

    def __init__(self, send_to: int, read_from: int) -> None:
        self._send_to, self._read_from, self._unread, self._last = send_to, read_from, b"", 0
        self.events: list[dict[str, Any]] = []
        self._session = ""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the protocol and wait for its answer."""
        self._last += 1
        message: dict[str, object] = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send_to, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, path: Path, width: int, height: int = 900, *, dark: bool = False, media: str = "screen") -> None:
        """Load a file at this width in CSS pixels, and wait until it is there."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not self.told("Page.loadEventFired"):
            self.events.append(self._receive())

    def told(self, method: str) -> list[dict[str, Any]]:
        """What it told under this name."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def value(self, expression: str) -> Any:
        """Of a JavaScript expression in the page."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, *, whole: bool = False) -> bytes:
        """PNG of what is seen, or of the whole page."""
        return base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=whole, format="png")["data"])

    def pdf(self) -> bytes:
        """As printed, on the paper that the page's style asks for."""
        printed = self.send("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        return base64.b64decode(printed["data"])

    def press(self, key: str, code: int) -> None:
        """One key, as from a keyboard."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def _receive(self, within_s: float = 60) -> dict[str, Any]:
        until = time.monotonic() + within_s
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._read_from], [], [], max(0, until - time.monotonic()))
            assert ready, f"chromium did not answer within {within_s:g} s"
            piece = os.read(self._read_from, 1 << 20)
            assert piece, "chromium ended"
            self._unread += piece
        message, _, self._unread = self._unread.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A page of a browser of its own, with an empty profile."""
    assert COMMAND is not None
    to_browser, from_browser = os.pipe(), os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (to_browser[0], from_browser[1]))
    # It speaks on descriptors 3 and 4, which only a shell can set without a race.
    speaking = ("sh", "-c", f'exec "$0" "$@" 3</dev/fd/{read} 4>/dev/fd/{write}')
    process = subprocess.Popen(
        [*speaking, COMMAND, *_FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(read, write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for end in (to_browser[0], from_browser[1], read, write):
        os.close(end)
    try:
        yield Tab(to_browser[1], from_browser[0])
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(to_browser[1])
        os.close(from_browser[0])
