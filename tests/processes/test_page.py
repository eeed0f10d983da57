"""The live page in a real browser, without a window."""

import json
import os
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from attrs import define

from jobproxy.sandbox.processes import find_free_port
from tests.support.programs import find_program, needs
from tests.support.stage import run_stage
from tests.support.waiting import DEADLINE

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = find_program(*BROWSERS)
HELD = 37

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
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def read(self, name: str) -> Any:
        """Return the text of the element with this id."""
        return self.evaluate(f"document.getElementById({name!r})?.textContent")

    def wait_for(self, expression: str) -> None:
        """Wait until something is true in the page."""
        deadline = time.monotonic() + DEADLINE
        while not self.evaluate(expression):
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


@needs_browser
def test_the_page_shows_numbers_that_move(tmp_path: Path) -> None:
    """The page shows how many are held, refused and done, and charts that move."""
    port = find_free_port()
    url = f"http://127.0.0.1:{port}/"
    with run_stage(admin_listen=f"tcp:{port}:interface=127.0.0.1") as stage:
        clients = stage.hold(*range(HELD))
        with browse(url, tmp_path) as page:
            page.wait_for(f"document.getElementById('held')?.textContent === '{HELD}'")
            assert page.read("state") == "ready"
            assert page.read("circuit") == "closed"
            assert page.read("queued-more") == "of 0 accounts"
            assert f"acknowledged{HELD}" in page.read("results")
            for number in range(HELD):
                stage.call_back(number)
                assert clients[number].receive().status == 200
            # For the last seconds, so at the same moment.
            page.wait_for(
                "['held', 'rate', 'p50'].map((id) => document.getElementById(id).textContent)"
                ".join().match(/^0,(?!0,).+,.+s$/)"
            )
            assert f"accepted{HELD}" in page.read("results")
            # The line of those who are held has gone down by now.
            line = page.evaluate("document.querySelector('#held ~ svg polyline').points.length")
            assert line >= 2
            assert page.evaluate("document.body.scrollWidth <= window.innerWidth")
            picture = b64decode(page.call("Page.captureScreenshot", format="png")["data"])
            assert picture.startswith(b"\x89PNG")
            (tmp_path / "page.png").write_bytes(picture)
            assert "no connection" not in page.read("state")


@needs_browser
def test_the_page_says_that_its_proxy_is_gone(tmp_path: Path) -> None:
    """The page that gets no events any more says so, instead of old numbers as if they were new."""
    port = find_free_port()
    with (
        run_stage(admin_listen=f"tcp:{port}:interface=127.0.0.1") as stage,
        browse(f"http://127.0.0.1:{port}/", tmp_path) as page,
    ):
        page.wait_for("document.getElementById('state').textContent === 'ready'")
        stage.proxy.process.kill()
        page.wait_for("/no connection/.test(document.getElementById('state').textContent)")
