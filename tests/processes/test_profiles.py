"""Each shipped profile end to end: a plain client, the daemon, and the API as the simulator has it.

The start requests of a profile's API go to the simulator, so its file has the simulator's address
instead; its pauses are short.
"""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from attrs import define, field

from jobproxy.profiles.profile import Profile
from jobproxy.profiles.reader import find_profile, list_shipped
from jobproxy.sandbox.processes import DaemonProcess
from jobproxy.sandbox.profile_clients import make_client_request
from jobproxy.sandbox.profile_demo import run_profile, send
from jobproxy.sandbox.profile_file import ProfileFile
from tests.support.processes import fetch_json, run
from tests.support.waiting import DEADLINE, wait_until

FILES = {name: find_profile(name).read_text(encoding="utf-8") for name in list_shipped()}


def for_profiles_with(text: str) -> pytest.MarkDecorator:
    """Return the mark of a test for those profiles alone that have something in their file."""
    names = [name for name, content in FILES.items() if f"\n{text}" in content]
    return pytest.mark.parametrize("processes", names, indirect=True, scope="module")


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
        return send(self.proxy.url, make_client_request(self.profile))

    def find_last(self, callbacks: int = 1) -> dict[str, Any]:
        """Return the last start request when its last callbacks have their responses.

        The client has its own before the job server has that to the callback.

        :param callbacks: about the end of the job, if the API has callbacks.
        """

        def is_done() -> bool:
            job = self.list_new()[-1]
            ends = [state for state, _, _ in job["delivered"] if state != "progress"]
            return not self.calls_back or len(ends) == callbacks

        wait_until(is_done)
        return self.list_new()[-1]

    def check_result(self, callbacks: int = 1) -> dict[str, Any]:
        """Send a job; return its start request. The client must get the job's result."""
        status, body = self.send()
        job = self.find_last(callbacks)
        assert (status, job["state"]) == (200, "succeeded"), body
        assert f"result of {job['id']}".encode() in body
        return job


def shorten(text: str) -> str:
    """Return a profile with short pauses between its polls."""
    text = re.sub("(?m)^(after|every) = .*\n", "", text)
    # A poll must not be before a callback that is about to come.
    after = 0.5 if "callback.url" in text else 0.1
    return text.replace("[poll]\n", f"[poll]\nafter = {after}\nevery = 0.1\n")


@pytest.fixture(scope="module", params=list(FILES))
def processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    name = request.param
    job_server, proxy = {"duration": "0.05"}, {"ambiguous-grace": "0.1"}
    folder = tmp_path_factory.mktemp(name)
    with run_profile(name, shorten(FILES[name]), folder, job_server, proxy) as parts:
        yield Pair(*parts)


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
    states = [state for state, _, _ in job["delivered"]]
    assert {status for _, status, _ in job["delivered"]} == {RIGHT}
    has_progress = bool(pair.file.tables["callback"].get("progress", ["running"]))
    assert states[: len(states) - 1] == ["progress"] * has_progress
    assert job["fetches"] == (pair.profile.callback.url is not None)


def test_failed_job(pair: Pair) -> None:
    """The client of a failed job gets what the API says of it, with the profile's status."""
    pair.plan("failed=1")
    status, body = pair.send()
    job = pair.find_last()
    assert (status, job["state"]) == (502, "failed")
    assert f"job {job['id']} is failed".encode() in body


def test_callback_before_the_ack(pair: Pair) -> None:
    """A callback before the ack is the result; one that is thin is all there is, without an id."""
    pair.plan("early=1")
    status, body = pair.send()
    job = pair.find_last()
    assert (status, job["state"]) == (200, "succeeded")
    if pair.profile.callback.url is None:
        assert f"result of {job['id']}".encode() in body
    if pair.calls_back:
        assert [state for state, _, _ in job["delivered"]] == ["succeeded"]
    else:
        assert job["polls"] >= 2


@for_profiles_with("verify")
def test_wrong_signature(pair: Pair) -> None:
    """A callback whose signature is wrong changes nothing; the right one after it is received."""
    pair.plan("forged=1")
    job = pair.check_result(2)
    statuses = [status for state, status, _ in job["delivered"] if state == "succeeded"]
    assert statuses == [WRONG, RIGHT]


@for_profiles_with("[poll]")
def test_no_callback(pair: Pair) -> None:
    """A job whose callback does not come is asked for."""
    pair.plan("drop=1")
    job = pair.check_result(0)
    assert (job["delivered"], job["polls"] >= 2) == ([], True)


@for_profiles_with("[result]\nurl")
def test_result_that_is_not_ready(pair: Pair) -> None:
    """A result after a thin callback is asked for until it is there."""
    pair.plan("unready=1")
    assert pair.check_result()["fetches"] == 3


@for_profiles_with("[cancel]")
def test_client_that_leaves(pair: Pair) -> None:
    """A job whose client has left is cancelled."""
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
        assert (status, problem["started"]) == (504, "unknown")


def test_too_many_requests(pair: Pair) -> None:
    """A start that gets 429 is sent again after the time that it asks for."""
    pair.plan("limited=1")
    pair.check_result()
    assert [job["state"] for job in pair.list_new()] == ["refused", "succeeded"]


@pytest.mark.parametrize("name", ["assemblyai", "openai"])
def test_the_demo_shows_a_profile(name: str) -> None:
    """The demo shows the request of a client, and the result that it gets."""
    done = run("jobproxy-demo", f"--profile={name}")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^\$ curl -X POST http://127\.0\.0\.1:", done.stdout, re.MULTILINE)
    assert re.search(r"^200\n.*result of [0-9a-f]{16}", done.stdout, re.MULTILINE)


def test_the_demo_says_which_profiles_there_are() -> None:
    """A profile that does not exist is one line."""
    done = run("jobproxy-demo", "--profile=none")
    expected = f"jobproxy-demo: none: there is no such file; profiles: {', '.join(FILES)}\n"
    assert (done.returncode, done.stderr) == (1, expected)
