"""Runs commands as a user would, and requests as any client would."""

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

from jobproxy.sandbox.processes import find_script
from tests.support.waiting import DEADLINE

ROOT = Path(__file__).parents[2]


def run(
    command: str, *arguments: str, timeout: float = DEADLINE, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run a script of this environment to its end, in an environment without options of ours."""
    bare = {name: value for name, value in os.environ.items() if "JOB" not in name}
    return subprocess.run(
        [find_script(command), *arguments],
        env={**bare, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def post_job(url: str) -> dict[str, str]:
    """Send a job to a proxy, and return its result.

    :raises OSError: if there is no connection, or the response is no result.
    """
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/proxy", b'{"account": "a"}', headers)
    with urllib.request.urlopen(request, timeout=DEADLINE) as response:
        result: dict[str, str] = json.load(response)
    return result


def fetch_json(url: str, body: bytes | None = None) -> Any:
    """GET a document, or POST for one."""
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=DEADLINE) as response:
        return json.load(response)
