"""Each shipped profile end to end: a plain client, the daemon, and the API as the simulator has it.

The start requests of a profile's API go to the simulator, so its file has the simulator's address
instead; its pauses are short.
"""

import http.client
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import define, field

from jobproxy.profiles.profile import Profile
from jobproxy.profiles.reader import list_shipped
from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from jobproxy.sandbox.profile_clients import make_client_request
from jobproxy.sandbox.profile_file import ProfileFile, read_profile_file
from tests.support.processes import fetch_json
from tests.support.profiles import SECRET
from tests.support.waiting import DEADLINE, wait_until

#: How a callback is received that has not verified, and one that has.
WRONG, RIGHT = 401, 200


@define(eq=False)
class Pair:
    """A proxy with one profile, and the simulator of its API."""

    file: ProfileFile
    server: DaemonProcess
    proxy: DaemonProcess
    _seen: int = field(default=0, init=False)

    @property
    def profile(self) -> Profile:
        return self.file.profile

    @property
    def calls_back(self) -> bool:
        return "callback.url" in self.file.text or self.profile.correlates_by_id

    def plan(self, *faults: str) -> None:
        """Say which faults the next start requests have; each text is for one of them."""
        for each in faults:
            fetch_json(f"{self.server.url}/simulator/faults", each.encode())

    def list_new(self) -> list[dict[str, Any]]:
        """Return what became of the start requests of this test."""
        jobs: list[dict[str, Any]] = fetch_json(f"{self.server.url}/simulator/jobs")
        return jobs[self._seen :]

    def begin(self) -> None:
        self._seen += len(self.list_new())

    def send(self) -> tuple[int, bytes]:
        """Send a job as a client; return the status and the body of the response."""
        asked = make_client_request(self.profile)
        url = f"{self.proxy.url}{asked.target}"
        request = urllib.request.Request(url, asked.body, asked.headers, method=asked.method)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def wait_for_end(self) -> dict[str, Any]:
        """Return the last start request, once the response to its last callback was noted.

        The response to the client can overtake it.
        """
        wait_until(
            lambda: any(state != "progress" for state, _, _ in self.list_new()[-1]["delivered"])
        )
        return self.list_new()[-1]

    def check_result(self) -> dict[str, Any]:
        """Send a job; return the last start request, whose result the client must get."""
        status, body = self.send()
        job = self.list_new()[-1]
        assert (status, job["state"]) == (200, "succeeded"), body
        assert f"result of {job['id']}".encode() in body
        return job


def make_pair(name: str, folder: Path) -> Iterator[Pair]:
    for secret in ("assemblyai", "bfl", "openai", "replicate"):
        (folder / secret).write_text(SECRET)
    variables = {"CREDENTIALS_DIRECTORY": str(folder)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CREDENTIALS_DIRECTORY", str(folder))
        file = read_profile_file(name)
    port = find_free_port()
    callback_url = f"http://127.0.0.1:{port}/callback"
    options = {"profile": name, "duration": "0.05"}
    if file.profile.correlates_by_id:
        options["webhook"] = f"{callback_url}/{name}"
    with DaemonProcess("jobserver", options, variables=variables) as server:
        with urllib.request.urlopen(f"{server.url}/simulator/profile", timeout=DEADLINE) as served:
            text = re.sub("(?m)^(after|every) = .*\n", "", served.read().decode())
        path = folder / f"{name}.toml"
        path.write_text(text.replace("[poll]\n", "[poll]\nafter = 0.5\nevery = 0.1\n"))
        settings = {"callback-url": callback_url, "profile": str(path), "ambiguous-grace": "0.1"}
        with DaemonProcess("jobproxy", settings, port, variables=variables) as proxy:
            yield Pair(file, server, proxy)


@pytest.fixture(scope="module", params=list_shipped())
def processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    yield from make_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def pair(processes: Pair) -> Pair:
    processes.begin()
    return processes


def test_client_gets_the_result(pair: Pair) -> None:
    """The client gets the result, after the API has said that the job goes on."""
    job = pair.check_result()
    if not pair.calls_back:
        assert job["polls"] >= 2
        return
    job = pair.wait_for_end()
    states = [state for state, _, _ in job["delivered"]]
    assert {status for _, status, _ in job["delivered"]} == {RIGHT}
    has_progress = bool(pair.file.tables["callback"].get("progress", ["running"]))
    assert states[: len(states) - 1] == ["progress"] * has_progress
    assert job["fetches"] == (pair.profile.callback.url is not None)


def test_failed_job(pair: Pair) -> None:
    """The client of a failed job gets what the API says of it, with the profile's status."""
    pair.plan("failed=1")
    status, body = pair.send()
    (job,) = pair.list_new()
    assert (status, job["state"]) == (502, "failed")
    assert f"job {job['id']} is failed".encode() in body


def test_callback_before_the_ack(pair: Pair) -> None:
    """A callback before the ack is the result; that of a thin one is fetched after the ack."""
    pair.plan("early=1")
    status, body = pair.send()
    (job,) = pair.list_new()
    assert (status, job["state"]) == (200, "succeeded")
    if pair.profile.callback.url is None or not pair.profile.correlates_by_id:
        assert f"result of {job['id']}".encode() in body
    if pair.calls_back:
        job = pair.wait_for_end()
        assert [state for state, _, _ in job["delivered"]] == ["succeeded"]
    else:
        assert job["polls"] >= 2


def test_wrong_signature(pair: Pair) -> None:
    """A callback whose signature is wrong changes nothing; the right one after it is received."""
    pair.plan("forged=1")
    job = pair.check_result()
    statuses = [status for state, status, _ in job["delivered"] if state == "succeeded"]
    expected = [WRONG, RIGHT] if pair.profile.verifier else [RIGHT]
    assert statuses == (expected if pair.calls_back else [])


def test_no_callback(pair: Pair) -> None:
    """A job whose callback does not come is asked for, where the API has a way to do it."""
    if pair.profile.poll is None:
        return
    pair.plan("drop=1")
    job = pair.check_result()
    assert (job["delivered"], job["polls"] >= 2) == ([], True)


def test_result_that_is_not_ready(pair: Pair) -> None:
    """A result after a thin callback is asked for until it is there."""
    if pair.profile.callback.url is None:
        return
    pair.plan("unready=1")
    assert pair.check_result()["fetches"] == 3


def test_client_that_leaves(pair: Pair) -> None:
    """A job whose client has left is cancelled, where the API has a way to do it."""
    if pair.profile.cancel is None:
        return
    pair.plan("late=1:600")
    asked = make_client_request(pair.profile)
    connection = http.client.HTTPConnection("127.0.0.1", pair.proxy.port, timeout=DEADLINE)
    connection.request(asked.method, asked.target, asked.body, asked.headers)
    wait_until(lambda: [job["state"] for job in pair.list_new()] == ["progress"])
    assert isinstance(connection.sock, socket.socket)
    connection.close()
    wait_until(lambda: pair.list_new()[0]["state"] == "cancelled")


def test_payment_is_required(pair: Pair) -> None:
    """A client is told of 402, and whether the profile knows that nothing was started."""
    pair.plan("unpaid=1")
    status, body = pair.send()
    assert [job["state"] for job in pair.list_new()] == ["refused"]
    problem = json.loads(body)
    if 402 in pair.profile.start.rejected:
        assert (status, problem["started"], problem["upstreamStatus"]) == (402, "no", 402)
    else:
        assert (status, problem["started"]) == (502, "unknown")


def test_too_many_requests(pair: Pair) -> None:
    """A start that gets 429 is sent again after the time that it asks for."""
    pair.plan("limited=1")
    pair.check_result()
    assert [job["state"] for job in pair.list_new()] == ["refused", "succeeded"]
