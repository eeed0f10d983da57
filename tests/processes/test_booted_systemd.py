"""The shipped units under a real systemd, installed and edited as docs/tutorial.rst says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from attrs import frozen

from jobproxy.sandbox.processes import DaemonProcess, find_free_port
from tests.support.booted_machine import LONG, CannotBoot, Machine, boot
from tests.support.programs import needs
from tests.support.socket_client import Client, request, result_of
from tests.support.threaded_job_server import serve_jobs
from tests.support.visitors import visit
from tests.support.waiting import wait_until

pytestmark = [
    needs("systemd-container", "systemd-nspawn"),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a container"),
    pytest.mark.timeout(2 * LONG),
]

SERVICE = "jobproxy.service"
SOCKETS = ("jobproxy.socket", "jobproxy-callbacks.socket")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    try:
        with boot(tmp_path_factory.mktemp("machine")) as machine:
            yield machine
    except CannotBoot as error:
        pytest.skip(f"no container can be booted here: {error}")


@frozen
class Units:
    """The units, with ports of the test's own.

    :param clients: the port for clients.
    :param operator: the port for the operator.
    """

    machine: Machine
    clients: int
    operator: int

    def show(self, name: str) -> str:
        return self.machine.show(SERVICE, name)

    def kill(self, signal: str) -> None:
        """Send the proxy a signal."""
        self.machine.systemctl("kill", f"--signal={signal}", SERVICE)

    def list_messages(self) -> str:
        """Return all lines of the log."""
        return "\n".join(str(each["MESSAGE"]) for each in self.machine.read_journal(SERVICE))


@contextmanager
def run_units(machine: Machine, job_server: str, *lines: str) -> Iterator[Units]:
    """Have the sockets listen while the context lasts; the first client starts the service.

    :param lines: more lines of the service's override.
    """
    clients, callbacks, operator = (find_free_port() for _ in range(3))
    for unit, port in zip(SOCKETS, (clients, callbacks), strict=True):
        machine.configure(unit, "[Socket]", "ListenStream=", f"ListenStream=127.0.0.1:{port}")
    machine.configure(
        SERVICE,
        "[Service]",
        f"Environment=JOBPROXY_CALLBACK_URL=http://127.0.0.1:{callbacks}/callback",
        f"Environment=JOBPROXY_JOB_SERVER_URL={job_server}/start",
        f"Environment=JOBPROXY_ADMIN_LISTEN=tcp:{operator}:interface=127.0.0.1",
        *lines,
    )
    machine.systemctl("start", *SOCKETS)
    try:
        yield Units(machine, clients, operator)
    finally:
        machine.systemctl("stop", SERVICE, *SOCKETS)
        machine.systemctl("reset-failed")


def test_first_client_starts_the_service(machine: Machine) -> None:
    """G5: the first client starts it, and gets its result; systemd knows that it is ready."""
    with serve_jobs() as server, run_units(machine, server.url) as units:
        assert units.show("ActiveState") == "inactive"
        with Client(units.clients) as client:
            client.send_job(0)
            server.wait_for(1)
            assert units.show("ActiveState") == "active"
            wait_until(lambda: units.show("StatusText") == "1 clients held")
            assert request(server.callbacks[0], result_of(0), "POST").status == 200
            assert client.receive().body == result_of(0)
        metrics = request(f"http://127.0.0.1:{units.operator}/metrics").body.decode()
        for name in ("open_fds", "max_fds", "resident_memory_bytes", "start_time_seconds"):
            assert f"\nprocess_{name} " in metrics
        assert "plugin cache" not in units.list_messages()


def test_journal_has_the_levels_of_the_lines(machine: Machine) -> None:
    """Each line has the priority of its level in the journal, and none is a word of systemd's."""
    with serve_jobs() as server, run_units(machine, server.url) as units:
        with Client(units.clients) as client:
            client.send_job(0)
            server.wait_for(1)
        wait_until(lambda: "client" in units.list_messages())
        own = [
            (each["PRIORITY"], each["MESSAGE"])
            for each in machine.read_journal(SERVICE)
            if each.get("SYSLOG_IDENTIFIER") == "jobproxy"
        ]
        levels = {"error": "3", "warn": "4", "info": "6", "debug": "7"}
        found = {
            (level, priority)
            for priority, message in own
            for level in levels
            if f'"level": "{level}"' in message
        }
        assert ("info", "6") in found
        assert all(levels[level] == priority for level, priority in found)


def test_reload_keeps_the_clients(machine: Machine) -> None:
    """X: ``systemctl reload`` reads the keys anew, in the same process; no client notices."""
    with (
        serve_jobs() as server,
        run_units(machine, server.url) as units,
        Client(units.clients) as client,
    ):
        client.send_job(0)
        server.wait_for(1)
        before = units.show("MainPID")
        machine.systemctl("reload", SERVICE)
        wait_until(lambda: "SIGHUP" in units.list_messages())
        assert units.show("MainPID") == before
        assert request(server.callbacks[0], result_of(0), "POST").status == 200
        assert client.receive().body == result_of(0)


def test_watchdog_restarts_a_process_that_hangs(machine: Machine) -> None:
    """T4: a process that hangs is ended and started again; what waits in the socket is served."""
    # A store has a thread. If that gets the signal, the loop goes on for a moment, and may take the
    # client's connection with it, which no loop does that really stalls.
    lines = ("WatchdogSec=2", "TimeoutAbortSec=1", "Environment=JOBPROXY_STORE=memory:")
    with serve_jobs() as server, run_units(machine, server.url, *lines) as units:
        machine.systemctl("start", SERVICE)
        units.kill("STOP")
        with Client(units.clients) as client:
            client.send_job(0)
            server.wait_for(1)
            assert units.show("NRestarts") == "1"
            assert "Watchdog timeout" in units.list_messages()
            assert request(server.callbacks[0], result_of(0), "POST").status == 200
            assert client.receive().body == result_of(0)


def test_restarts_under_load_lose_no_response(machine: Machine) -> None:
    """G1: ``systemctl restart`` refuses nobody and loses no response."""
    clients = 20
    with (
        DaemonProcess("jobserver", {"duration": "0.05"}) as server,
        run_units(machine, server.url) as units,
        visit(units.clients, clients) as visitors,
    ):
        for turn in range(3):
            visitors.wait_for(2 * clients * (turn + 1))
            machine.systemctl("restart", SERVICE)
    assert visitors.outcomes.keys() == {"200"}


def test_killed_service_starts_no_job_again(machine: Machine) -> None:
    """K1: SIGKILL; systemd starts it again, and the key joins the job that runs."""
    with serve_jobs() as server, run_units(machine, server.url) as units:
        with Client(units.clients) as client:
            client.send_job(0, Idempotency_Key='"paid once"')
            server.wait_for_acks([0])
            callback = server.callbacks[0]
            units.kill("KILL")
            with pytest.raises(ConnectionError):
                client.receive()
        with Client(units.clients) as client:
            client.send_job(0, Idempotency_Key='"paid once"')
            wait_until(lambda: units.show("StatusText") == "1 clients held")
            assert units.show("NRestarts") == "1"
            assert request(server.callbacks[0], result_of(0), "POST").status == 200
            assert client.receive().body == result_of(0)
        assert server.callbacks[0] == callback


def test_wrong_option_is_said_and_easy_to_undo(machine: Machine) -> None:
    """G3: a client waits, and an option is wrong: systemd gives up, and says which option."""
    wrong = "Environment=JOBPROXY_WAIT=soon"
    with (
        serve_jobs() as server,
        run_units(machine, server.url, wrong) as units,
        Client(units.clients) as refused,
    ):
        refused.send_job(0)
        with pytest.raises(ConnectionError):
            refused.receive()
        wait_until(lambda: units.show("ActiveState") == "failed")
        assert units.show("ExecMainStatus") == "78"
        assert "JOBPROXY_WAIT must be a number of seconds" in units.list_messages()
        right = [line for line in machine.read_override(SERVICE) if line != wrong]
        machine.configure(SERVICE, *right)
        # It starts the sockets too.
        machine.systemctl("restart", SERVICE)
        with Client(units.clients) as client:
            client.send_job(1)
            server.wait_for_starts([1])
            assert request(server.callbacks[1], result_of(1), "POST").status == 200
            assert client.receive().body == result_of(1)
