"""Endings that nobody planned, and what a proxy that comes after finds."""

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from attrs import define

from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.support.processes import run
from tests.support.socket_client import BIG, Client, Response, request, result_of
from tests.support.stage import DRAINING, make_proxy, run_stage
from tests.support.threaded_job_server import serve_jobs
from tests.support.waiting import wait_for_exit, wait_until

UNREACHABLE = "urn:jobproxy:problem:upstream-unreachable"
KEY = "a key of thirty-two bytes or more"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_drain(number: signal.Signals) -> None:
    """G3: after a second signal nothing is waited for, and every held client is told so."""
    with run_stage() as stage:
        clients = stage.hold(*range(20))
        stage.stop()
        stage.proxy.process.send_signal(number)
        stage.wait_for_end()
        for client in clients:
            assert client.receive().verdict == (503, DRAINING, "yes")
            assert client.is_ended()
        assert stage.proxy.log.count("a second signal came") == 1


def test_a_second_signal_does_not_wait_for_a_client_that_does_not_read() -> None:
    """G3: after a second signal a client that does not read is not waited for either."""
    with run_stage(max_body=str(len(BIG))) as stage:
        stalled, held = stage.hold(0, 1)
        assert stage.call_back(0, BIG).status == 200
        wait_until(stalled.has_response)
        stage.stop()
        stage.proxy.process.send_signal(signal.SIGTERM)
        stage.wait_for_end()
        assert held.receive().verdict == (503, DRAINING, "yes")


def test_two_signals_at_once_are_no_trouble() -> None:
    """G3: signals that come before the first one has been seen to are no trouble either."""
    with run_stage() as stage:
        (held,) = stage.hold(0)
        with stage.stall():
            stage.proxy.process.send_signal(signal.SIGTERM)
            stage.proxy.process.send_signal(signal.SIGINT)
        wait_until(lambda: "draining:" in stage.proxy.log)
        # Whether the second signal ends the drain before the callback is not said.
        with suppress(ConnectionError):
            stage.call_back(0)
        response = held.receive()
        is_hurried = response.status == 503
        assert is_hurried or response.body == result_of(0)
        assert not is_hurried or response.verdict == (503, DRAINING, "yes")
        wait_for_exit(stage.proxy.process)
        assert "Traceback" not in stage.proxy.log


def test_signals_without_end_are_no_trouble() -> None:
    """G3: signals that do not stop coming are no trouble either."""
    with run_stage() as stage:
        stage.hold(0)

        def is_ended() -> bool:
            stage.proxy.process.send_signal(signal.SIGTERM)
            return stage.proxy.process.poll() is not None

        wait_until(is_ended)
        stage.wait_for_end()


def test_clients_of_a_killed_process_are_disconnected() -> None:
    """G4: the clients of a killed process are disconnected, without a response."""
    with run_stage() as stage:
        clients = stage.hold(*range(20))
        stage.proxy.process.kill()
        wait_for_exit(stage.proxy.process)
        for client in clients:
            with pytest.raises(ConnectionError):
                client.receive()


@define
class Heir:
    """A proxy that was started after another had been killed, which had started one job.

    :ivar callback_url: what the job server was told then.
    :ivar admin: where the proxy's admin side is.
    """

    proxy: DaemonProcess
    callback_url: str
    admin: str

    @property
    def job_id(self) -> str:
        return self.callback_url.rpartition("/")[2].partition(".")[0]

    def call_back(self, body: bytes = result_of(0)) -> Response:
        return request(self.callback_url, body, "POST")


@contextmanager
def run_heir(folder: Path, first: str, second: str) -> Iterator[Heir]:
    """Run a proxy with the port of one that was killed while it held a client.

    :param first: what was in the secret file of the first.
    :param second: what is in it now.
    """
    secret = folder / "secret"
    secret.write_text(first)
    port, admin = find_free_port(), find_free_port()
    options = {
        "secret_file": str(secret),
        "admin_listen": f"tcp:{admin}:interface=127.0.0.1",
        "upstream_idle": "0",
    }
    with serve_jobs() as server:
        with make_proxy(server.url, port, **options) as killed, Client(port) as client:
            client.send_job(0)
            server.wait_for(1)
            killed.process.kill()
            wait_for_exit(killed.process)
        secret.write_text(second)
        with make_proxy(server.url, port, **options) as proxy:
            yield Heir(proxy, server.callbacks[0], f"http://127.0.0.1:{admin}")


@pytest.mark.parametrize("second", [KEY, f"a new {KEY}\n{KEY}"], ids=["same", "rotated"])
def test_a_callback_after_a_restart_ends_its_job(tmp_path: Path, second: str) -> None:
    """B3, G4: a job started before a restart ends after it, and its result can be fetched."""
    with run_heir(tmp_path, KEY, second) as heir:
        response = heir.call_back()
        assert (response.status, response.document) == (200, {"status": "late"})
        assert heir.call_back().document == {"status": "duplicate"}
        assert heir.call_back(result_of(1)).document == {"status": "duplicate"}
        (orphan,) = request(f"{heir.admin}/orphans").document["orphans"]
        assert (orphan["job"], orphan["id"]) == (heir.job_id, "0")
        assert orphan["bytes"] == len(result_of(0))
        assert request(f"{heir.admin}/orphans/{heir.job_id}").body == result_of(0)
        job = request(f"{heir.proxy.url}/jobs/{heir.job_id}")
        assert (job.status, job.body) == (200, result_of(0))
        assert request(f"{heir.admin}/orphans").document["orphans"] == []


def test_a_callback_signed_with_another_secret_is_unknown(tmp_path: Path) -> None:
    """B3, B6: with another secret the same callback is as good as a forged one."""
    with run_heir(tmp_path, KEY, KEY[::-1]) as heir:
        response = heir.call_back()
        forged = request(f"{heir.proxy.url}/callback/{'x' * 60}", result_of(0), "POST")
        assert response.status == forged.status == 404
        assert blank_id(response) == blank_id(forged)
        assert request(f"{heir.proxy.url}/jobs/{heir.job_id}").status == 404
        assert request(f"{heir.admin}/orphans").document["orphans"] == []


def blank_id(response: Response) -> bytes:
    """Return the body of a problem without what differs in each."""
    return re.sub(rb'"requestId": "\w+"', b"", response.body)


@pytest.mark.parametrize("text", [None, "", "too short", f"{KEY}\ntoo short"])
def test_a_bad_secret_ends_the_start(tmp_path: Path, text: str | None) -> None:
    """G6: without a good secret the proxy does not start, and says why but not what was there."""
    secret = tmp_path / "secret"
    if text is not None:
        secret.write_text(text)
    options = ["--callback-url=http://a.example/", f"--secret-file={secret}"]
    done = run("twistd", "-n", "--pidfile=", "jobproxy", *options)
    assert done.returncode == 78
    assert done.stderr.startswith("jobproxy: --secret-file ")
    assert done.stderr.count("\n") == 1
    assert not any(line in done.stdout + done.stderr for line in ("too short", KEY))


def test_a_job_server_that_comes_up_late_is_found() -> None:
    """G7: the proxy starts without its job server, says that it is not there, and finds it."""
    job_server = find_free_port()
    url = f"http://127.0.0.1:{job_server}"
    proxy = make_proxy(url, find_free_port(), start_attempts="1", upstream_idle="0")
    with ExitStack() as stack:
        stack.enter_context(proxy)
        assert request(f"{proxy.url}/healthz").status == 200
        client = stack.enter_context(Client(proxy.port))
        for number in range(12):
            client.send_job(number)
            response = client.receive()
            assert response.verdict == (503, UNREACHABLE, "no")
            assert int(response.headers["Retry-After"]) >= 1
        assert request(f"{proxy.url}/readyz").document["warnings"] == ["job-server-unreachable"]

        server = stack.enter_context(serve_jobs(job_server))

        def is_started() -> bool:
            client.send_job(100)
            wait_until(lambda: server.callbacks or client.has_response())
            return bool(server.callbacks) or client.receive().status != 503

        wait_until(is_started)
        assert list(server.callbacks) == [100]
        assert request(server.callbacks[100], result_of(100), "POST").status == 200
        assert client.receive().body == result_of(100)
        assert request(f"{proxy.url}/readyz").status == 200
