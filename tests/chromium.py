"""A headless Chromium that tests can look through, by its DevTools protocol."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

import pytest
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")


class Tab:
    """One page; `ask` evaluates JavaScript there and returns its value."""

    def __init__(self, address: str) -> None:
        self._socket = websocket.create_connection(address, timeout=60, suppress_origin=True)
        self._number = 0

    def _do(self, method: str, **given: Any) -> dict[str, Any]:
        self._number += 1
        asked = {"id": self._number, "method": method, "params": given}
        self._socket.send(json.dumps(asked))
        while (answer := json.loads(self._socket.recv())).get("id") != self._number:
            pass
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def open(self, address: str, *, width: int, height: int = 900) -> None:
        """Go to a page in a window of a size, and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._do("Emulation.setDeviceMetricsOverride", **size)
        self._do("Page.navigate", url=address)
        self.until(f"document.readyState === 'complete' && location.href === {address!r}")

    def ask(self, script: str) -> Any:
        """Return what a script's last expression is, awaited."""
        found = self._do(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, *, seconds: float = 60) -> float:
        """Wait until an expression is true; return how long that took, in seconds."""
        started = time.monotonic()
        while not self.ask(f"Boolean({script})"):
            assert time.monotonic() - started < seconds, f"never came true: {script}"
            time.sleep(0.05)
        return time.monotonic() - started


@contextmanager
def chromium() -> Iterator[Tab]:
    """Start a browser, or skip the test where there is none."""
    browser = next(filter(None, map(shutil.which, NAMES)), None)
    if browser is None:
        pytest.skip(f"none of {', '.join(NAMES)} is on PATH")
    with TemporaryDirectory(ignore_cleanup_errors=True) as home:  # its children write to the end
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
        process = subprocess.Popen(
            [browser, *flags, f"--user-data-dir={home}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = Path(home) / "DevToolsActivePort"
            for _ in range(600):
                if port.exists() and len(port.read_text().splitlines()) == 2:
                    break
                time.sleep(0.05)
            asked = Request(
                f"http://127.0.0.1:{port.read_text().split()[0]}/json/new", method="PUT"
            )
            with urlopen(asked) as answer:
                yield Tab(json.load(answer)["webSocketDebuggerUrl"])
        finally:
            process.terminate()
            process.wait()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder as a static site does; yields its address."""
    handler = functools.partial(_Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
