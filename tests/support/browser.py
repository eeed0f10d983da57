"""A real browser, without a window."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from attrs import define

from tests.support.programs import find_program, needs
from tests.support.waiting import DEADLINE

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = find_program(*BROWSERS)

needs_browser = needs("chromium", *BROWSERS)

#: The browser takes commands from descriptor 3, and answers on 4.
EXEC = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
os.dup2(ends[0], 3)
os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


@define(eq=False)
class Page:
    """A page in the browser, driven by the DevTools protocol."""

    _commands: BinaryIO
    _answers: BinaryIO
    _number: int = 0
    _session: str | None = None

    def open(self, url: str) -> None:
        target = self.call("Target.createTarget", url=url)["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def call(self, method: str, **parameters: object) -> Any:
        """Have the browser do something, and return what comes of it."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            command["sessionId"] = self._session
        self._commands.write(json.dumps(command).encode() + b"\0")
        self._commands.flush()
        while True:
            message = json.loads(self._read())
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression, or what its promise resolves to."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key, which goes to what has the focus."""
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def read(self, name: str) -> Any:
        """Return the text of the element with this id."""
        return self.evaluate(f"document.getElementById({name!r})?.textContent")

    def hover(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def wait_for(self, expression: str) -> None:
        """Wait until something is true in the page."""
        deadline = time.monotonic() + DEADLINE
        while not self.evaluate(f"document.body && !!({expression})"):
            assert time.monotonic() < deadline, self.evaluate("document.body.innerText")
            time.sleep(0.05)

    def _read(self) -> bytes:
        data = b""
        while not data.endswith(b"\0"):
            piece = self._answers.read(1)
            assert piece, "the browser has ended"
            data += piece
        return data[:-1]


@contextmanager
def browse(url: str, folder: Path) -> Iterator[Page]:
    """Show a page while the context lasts."""
    assert BROWSER is not None
    (reading, commands), (responses, writing) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", EXEC, str(reading), str(writing)]
    command += [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,1600"]
    command += ["--remote-debugging-pipe", f"--user-data-dir={folder}"]
    process = subprocess.Popen(
        command, pass_fds=(reading, writing), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(reading)
    os.close(writing)
    with os.fdopen(commands, "wb") as to_browser, os.fdopen(responses, "rb") as from_browser:
        try:
            page = Page(to_browser, from_browser)
            page.open(url)
            yield page
        finally:
            process.kill()
            process.wait()
