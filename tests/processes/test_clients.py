"""Clients of other languages, as they are: each gets its result, and each can send callbacks."""

import json
import re
import shutil
import subprocess
from pathlib import Path

from jobproxy.sandbox.processes import run_pair
from tests.support.programs import needs
from tests.support.stage import run_stage
from tests.support.waiting import DEADLINE

CLIENTS = Path(__file__).parent / "clients"

needs_java = needs("openjdk-17-jdk-headless", "javac")


def run_java(url: str, body: str) -> list[str]:
    """Send a body twice with Java's HttpClient; return the lines that it prints."""
    java = shutil.which("java")
    assert java is not None
    done = subprocess.run(
        [java, str(CLIENTS / "Held.java"), url, body],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@needs_java
def test_java_is_held_and_gets_its_result() -> None:
    """Q29: Java's client, which offers HTTP/2, is held and gets the result, twice."""
    with run_pair({"duration": "0.1"}, {}) as (_, proxy):
        lines = run_java(f"{proxy.url}/proxy", '{"account": "a"}')
    assert len(lines) == 2
    for line in lines:
        assert re.match(r"200 \{.*\"state\":\s*\"completed\"", line), line


@needs_java
def test_java_can_send_callbacks() -> None:
    """Q29: a job server in Java sends a callback, and sends it again."""
    with run_stage() as stage:
        (client,) = stage.hold(0)
        body = '{"id": "0", "state": "completed"}'
        lines = run_java(stage.server.callbacks[0], body)
        assert [json.loads(line.partition(" ")[2])["status"] for line in lines] == [
            "accepted",
            "duplicate",
        ]
        assert client.receive().body == body.encode()
