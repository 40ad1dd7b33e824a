"""A small client for Chromium's DevTools protocol over a pair of pipes.

Source: https://chromedevtools.github.io/devtools-protocol/, "--remote-debugging-pipe".
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

PROGRAM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-pipe",
)
TIMEOUT_S = 30


class Page:
    """One page of a running Chromium. requests: the addresses of everything that it has requested."""

    def __init__(self, reading: int, writing: int) -> None:
        self.reading, self.writing = reading, writing
        self.rest, self.events, self.number, self.session = b"", deque[dict[str, Any]](), 0, ""
        self.requests: list[str] = []
        self.trouble: list[str] = []

    @classmethod
    def attached(cls, reading: int, writing: int) -> Self:
        """The page of a browser that has just started."""
        page = cls(reading, writing)
        target = page.call("Target.createTarget", url="about:blank")["targetId"]
        page.session = page.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        return page

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise AssertionError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(self, path: Path) -> float:
        """Open a file. Returns the seconds until it was loaded."""
        self.events.clear()
        begin = time.perf_counter()
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("Page.loadEventFired")
        self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")
        return time.perf_counter() - begin

    def run(self, expression: str) -> Any:
        """The value of an expression in the page; a promise is awaited."""
        asked = {"returnByValue": True, "awaitPromise": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", expression=expression, **asked)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + TIMEOUT_S
        while not self.run(expression):
            assert time.monotonic() < end, f"it never holds: {expression}"
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """Press and release a key, given by its name or its letter."""
        code = {"Enter": 13, " ": 32, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        about = {"key": key, "windowsVirtualKeyCode": code.get(key, ord(key[0].upper()))}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", **about)

    def show(self, width: int, height: int, *, is_dark: bool = False) -> None:
        """Set the size and the colour scheme of the page."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self) -> bytes:
        """A screenshot as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def wait_for(self, method: str) -> dict[str, Any]:
        """Wait for the next event with a name. Returns its parameters."""
        while True:
            event = self.events.popleft() if self.events else self._next()
            if event.get("method") == method:
                return event["params"]

    def _next(self) -> dict[str, Any]:
        """The next message; requests and errors in it are recorded."""
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.reading], [], [], TIMEOUT_S)
            assert ready, "Chromium does not answer"
            piece = os.read(self.reading, 2**20)
            assert piece, "Chromium has ended"
            self.rest += piece
        text, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.trouble.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.trouble.append(params["entry"]["text"])
        if method is not None:
            self.events.append(message)
        return message


@contextmanager
def chromium(folder: Path) -> Iterator[Page]:
    """A running Chromium with one empty page. folder: an empty folder for its data."""
    assert PROGRAM is not None
    (ours, writing), (reading, theirs) = os.pipe(), os.pipe()
    pair = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (ours, theirs)]  # other descriptors than 3 and 4

    def wire() -> None:
        """In the new process: connect descriptor 3, which it reads from, and 4, which it writes to."""
        os.dup2(pair[0], 3)
        os.dup2(pair[1], 4)

    words = [PROGRAM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    process = subprocess.Popen(words, pass_fds=(3, 4), preexec_fn=wire, **quiet)
    for one in (ours, theirs, *pair):
        os.close(one)
    try:
        yield Page.attached(reading, writing)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(reading)
        os.close(writing)
