"""Sends a job to jobproxy with requests, and prints its result: URL and JOB are its arguments."""

import sys
import time
import uuid
from typing import Any
from urllib.parse import urljoin

import requests

#: Seconds: the proxy's --wait.
WAIT = 30
#: Seconds for all attempts together.
PATIENCE = 300


class NoResult(Exception):
    """There is no result, and the problem says why."""


def send(url: str, job: str, key: str, place: str | None) -> requests.Response:
    """Send a job, or ask at a place for its result."""
    if place is None:
        headers = {"Content-Type": "application/json", "Idempotency-Key": key}
        return requests.post(url, job.encode(), headers=headers, timeout=WAIT + 5)
    return requests.get(place, headers={"Prefer": f"wait={WAIT}"}, timeout=WAIT + 5)


def run_job(url: str, job: str) -> bytes:
    """Return the result of a job, which is started once at most."""
    key = str(uuid.uuid4())
    # Where to ask for the result, once the job may run.
    place = None
    problem: dict[str, Any] = {"detail": "There was no response.", "started": "unknown"}
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            response = send(url, job, key, place)
        except requests.RequestException:
            # The job may run or not. With the same key it is not started again.
            time.sleep(1)
            continue
        if response.status_code == 200:
            return response.content
        if response.status_code == 202:
            place = urljoin(url, response.headers["Location"])
            continue
        if response.headers.get("Content-Type") != "application/problem+json":
            # Something between responds instead of jobproxy.
            time.sleep(1)
            continue
        problem = response.json()
        pause = response.headers.get("Retry-After")
        if problem["started"] == "no" and pause is not None:
            place = None
        elif problem["started"] == "no" or response.status_code in (404, 409):
            raise NoResult(problem)
        elif "instance" in problem:
            place = urljoin(url, problem["instance"])
        elif pause is None:
            raise NoResult(problem)
        time.sleep(min(float(pause or 0), PATIENCE))
    raise NoResult(problem)


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(run_job(*sys.argv[1:]))
    except NoResult as error:
        sys.exit(f"no result: {error}")
