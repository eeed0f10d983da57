"""Endings that nobody planned, and what a proxy that comes after finds."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from attrs import define

from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.processes.test_draining import (
    BIG,
    DRAINING,
    Answer,
    Client,
    ask,
    make_proxy,
    result_of,
    run_stage,
    serve_jobs,
    wait_until,
)
from tests.support.processes import run

UNREACHABLE = "urn:jobproxy:problem:upstream-unreachable"
KEY = "a key of thirty-two bytes or more"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_second_signal(number: signal.Signals) -> None:
    """G3: whoever is told twice to stop waits for nobody, but tells those who are held."""
    with run_stage() as stage:
        clients = stage.hold(*range(20))
        stage.stop()
        stage.proxy.process.send_signal(number)
        stage.wait_for_end()
        for client in clients:
            assert client.receive().verdict == (503, DRAINING, "yes")
            assert client.is_ended()
        assert stage.proxy.log.count("a second signal came") == 1


def test_second_signal_while_nobody_reads() -> None:
    """G3: whoever is told twice to stop does not wait for a client that does not read either."""
    with run_stage(max_body=str(len(BIG))) as stage:
        stalled, held = stage.hold(0, 1)
        assert stage.call_back(0, BIG).status == 200
        assert stalled.has_answer(1.0)
        stage.stop()
        stage.proxy.process.send_signal(signal.SIGTERM)
        stage.wait_for_end()
        assert held.receive().verdict == (503, DRAINING, "yes")


def test_signals_at_once() -> None:
    """G3: signals that come before the first one has been seen to are no trouble either."""
    with run_stage() as stage:
        (held,) = stage.hold(0)
        with stage.stall():
            stage.proxy.process.send_signal(signal.SIGTERM)
            stage.proxy.process.send_signal(signal.SIGINT)
        wait_until(lambda: "draining:" in stage.proxy.log)
        if not held.has_answer(0.2):
            assert stage.call_back(0).status == 200
            assert held.receive().body == result_of(0)
        stage.proxy.process.wait(1.0)
        assert "Traceback" not in stage.proxy.log


def test_signals_to_the_end() -> None:
    """G3: signals that do not stop coming are no trouble either."""
    with run_stage() as stage:
        stage.hold(0)
        while stage.proxy.process.poll() is None:
            stage.proxy.process.send_signal(signal.SIGTERM)
            time.sleep(0.0005)
        stage.wait_for_end()


def test_killed() -> None:
    """G4: the clients of a process that is killed are hung up on at once, without an answer."""
    with run_stage() as stage:
        clients = stage.hold(*range(20))
        stage.proxy.process.kill()
        stage.proxy.process.wait(1.0)
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

    def call_back(self, body: bytes = result_of(0)) -> Answer:
        return ask(self.callback_url, body, "POST")


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
            killed.process.wait()
        secret.write_text(second)
        with make_proxy(server.url, port, **options) as proxy:
            yield Heir(proxy, server.callbacks[0], f"http://127.0.0.1:{admin}")


@pytest.mark.parametrize("second", [KEY, f"a new {KEY}\n{KEY}"], ids=["same", "rotated"])
def test_callback_after_restart(tmp_path: Path, second: str) -> None:
    """B3, G4: what was started before a restart ends after it, and its result can be had."""
    with run_heir(tmp_path, KEY, second) as heir:
        response = heir.call_back()
        assert (response.status, response.document) == (200, {"status": "late"})
        assert heir.call_back().document == {"status": "duplicate"}
        assert heir.call_back(result_of(1)).status == 409
        (orphan,) = ask(f"{heir.admin}/orphans").document["orphans"]
        assert (orphan["job"], orphan["id"]) == (heir.job_id, "0")
        assert orphan["bytes"] == len(result_of(0))
        assert ask(f"{heir.admin}/orphans/{heir.job_id}").body == result_of(0)
        job = ask(f"{heir.proxy.url}/jobs/{heir.job_id}")
        assert (job.status, job.body) == (200, result_of(0))
        assert ask(f"{heir.admin}/orphans").document == {"orphans": []}


def test_callback_to_another(tmp_path: Path) -> None:
    """B3, B6: with another secret the same callback is as good as a forged one."""
    with run_heir(tmp_path, KEY, KEY[::-1]) as heir:
        response = heir.call_back()
        forged = ask(f"{heir.proxy.url}/callback/{'x' * 60}", result_of(0), "POST")
        assert response.status == forged.status == 404
        assert blank_id(response) == blank_id(forged)
        assert ask(f"{heir.proxy.url}/jobs/{heir.job_id}").status == 404
        assert ask(f"{heir.admin}/orphans").document == {"orphans": []}


def blank_id(response: Answer) -> bytes:
    """Return the body of a problem without what differs in each."""
    return re.sub(rb'"requestId": "\w+"', b"", response.body)


@pytest.mark.parametrize("text", [None, "", "too short", f"{KEY}\ntoo short"])
def test_bad_secret(tmp_path: Path, text: str | None) -> None:
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


def test_job_server_comes_up_late() -> None:
    """G7: the proxy starts without its job server, says that it is not there, and finds it."""
    job_server = find_free_port()
    url = f"http://127.0.0.1:{job_server}"
    proxy = make_proxy(url, find_free_port(), start_attempts="1", upstream_idle="0")
    with ExitStack() as stack:
        stack.enter_context(proxy)
        assert ask(f"{proxy.url}/healthz").status == 200
        client = stack.enter_context(Client(proxy.port))
        for number in range(12):
            client.send_job(number)
            response = client.receive()
            assert response.verdict == (503, UNREACHABLE, "no")
            assert int(response.headers["Retry-After"]) >= 1
        assert ask(f"{proxy.url}/readyz").document["reasons"] == ["job-server-unreachable"]

        server = stack.enter_context(serve_jobs(job_server))

        def is_started() -> bool:
            client.send_job(100)
            return not client.has_answer(0.1) or client.receive().status != 503

        wait_until(is_started, 5.0)
        assert list(server.callbacks) == [100]
        assert ask(server.callbacks[100], result_of(100), "POST").status == 200
        assert client.receive().body == result_of(100)
        assert ask(f"{proxy.url}/readyz").status == 200
