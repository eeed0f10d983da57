"""The units of deploy/systemd, and a proxy under a stand-in for the manager that runs them."""

import fcntl
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from attrs import define, field

from jobproxy.sandbox.processes import DaemonProcess, find_free_port, find_script
from jobproxy.tap import Options
from tests.support.processes import ROOT, run
from tests.support.programs import needs
from tests.support.service_manager import EXEC, Manager
from tests.support.socket_client import Client, request, result_of
from tests.support.stage import run_stage
from tests.support.threaded_job_server import serve_jobs
from tests.support.visitors import visit
from tests.support.waiting import DEADLINE, wait_for_exit

UNITS = ROOT / "deploy" / "systemd"

needs_systemd = needs("systemd", "systemd-analyze")


def read_unit(name: str) -> dict[str, list[str]]:
    """Return the settings of a unit; each may be there several times."""
    settings = defaultdict(list)
    for key, value in re.findall(r"^(\w+)=(.*)$", (UNITS / name).read_text(), re.MULTILINE):
        settings[key].append(value)
    return settings


def analyze(folder: Path, *arguments: str) -> str:
    """Have systemd look at the units as if we were installed where they say."""
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/jobproxy/bin", sysconfig.get_path("scripts"))
        (folder / unit.name).write_text(text)
    units = sorted(str(unit) for unit in folder.iterdir() if unit.name.endswith(arguments[-1]))
    done = subprocess.run(
        ["systemd-analyze", *arguments[:-1], *units],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_systemd
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """Systemd has nothing to say about the units."""
    assert analyze(tmp_path, "verify", "--man=no", "") == ""


@needs_systemd
def test_an_attacker_in_the_process_can_do_next_to_nothing(tmp_path: Path) -> None:
    """An attacker who takes over the process can do next to nothing: 1.5 of 10 at most."""
    told = analyze(
        tmp_path, "security", "--offline=true", "--no-pager", "--threshold=15", ".service"
    )
    exposure = re.search(r"Overall exposure level for jobproxy.service: ([\d.]+)", told)
    assert exposure is not None
    assert float(exposure[1]) <= 1.5


def test_the_manager_waits_longer_than_a_drain_takes() -> None:
    """G1: the manager gives the proxy ten seconds more than it takes at most to drain."""
    names = ("drain-delay", "drain-timeout")
    needed = sum(int(option.default or 0) for option in Options.table if option.name in names)
    (stop,) = read_unit("jobproxy.service")["TimeoutStopSec"]
    assert int(stop) == needed + 10


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """Listen to what a proxy tells its manager."""
    manager = Manager(str(tmp_path / "notify"))
    with manager.socket:
        yield manager


def wait_for(manager: Manager, name: str, seconds: float = DEADLINE) -> dict[str, str]:
    """Return the next message with a field, or nothing if none comes in time."""
    deadline = time.monotonic() + seconds
    while manager.has_message(deadline - time.monotonic()):
        message = manager.receive_one()
        if name in message:
            return message
    return {}


def test_ready_is_sent_once_the_proxy_listens(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G5: whoever is told that the proxy is ready can connect; and nothing is told before."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.variable)
    callback, port = find_free_port(), find_free_port()
    command = [find_script("twistd"), "-n", "--pidfile=", "--logfile=/dev/null", "jobproxy"]
    command += ["--callback-url=http://a.example/", f"--listen=tcp:{port}:interface=127.0.0.1"]
    command += [f"--callback-listen=tcp:{callback}:interface=127.0.0.1"]
    with subprocess.Popen(command) as process:
        try:
            assert manager.has_message(DEADLINE)
            for served in (port, callback):
                Client(served).close()
            assert manager.receive() == [{"READY": "1", "STATUS": "0 clients held"}]
        finally:
            process.terminate()


def test_nothing_is_sent_if_the_port_is_taken(manager: Manager) -> None:
    """G5: a proxy whose port is taken ends without a word to the manager."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"--listen=tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        arguments = ["-n", "--pidfile=", "jobproxy", "--callback-url=http://a.example/", listen]
        assert run("twistd", *arguments, NOTIFY_SOCKET=manager.variable).returncode == 1
    assert manager.receive() == []


def test_stopping_is_sent_when_the_drain_begins(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G1: the manager is told of the drain when it begins, and how many are held then."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.variable)
    with run_stage() as stage:
        (client,) = stage.hold(0)
        manager.receive()
        stage.stop()
        assert manager.receive() == [{"STOPPING": "1", "STATUS": "draining, 1 clients held"}]
        assert stage.call_back(0).status == 200
        stage.wait_for_end()
        assert client.receive().body == result_of(0)


@define(eq=False)
class StandIn:
    """Runs the service as its unit says, with the sockets of the others, as systemd would.

    :param environment: what is to be other than in the unit.
    :param sockets: what is listened on, by name.
    """

    manager: Manager
    environment: dict[str, str]
    sockets: dict[str, socket.socket]
    log: Path
    process: "subprocess.Popen[bytes]" = field(init=False)

    def start(self) -> None:
        """Start the service, and wait until it is ready."""
        unit = read_unit("jobproxy.service")
        script, *arguments = unit["ExecStart"][0].split()
        # The numbers that the service will see are taken here.
        inherited = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in self.sockets.values()]
        numbers = ",".join(map(str, inherited))
        environment = {
            **os.environ,
            **dict(line.split("=", 1) for line in unit["Environment"]),
            "NOTIFY_SOCKET": self.manager.variable,
            "LISTEN_FDS": str(len(inherited)),
            "LISTEN_FDNAMES": ":".join(self.sockets),
            **self.environment,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-ISc", EXEC, numbers, find_script(Path(script).name), *arguments],
                env=environment,
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for number in inherited:
            os.close(number)
        assert wait_for(self.manager, "READY"), self.log.read_text()

    def stop(self) -> None:
        """Stop the service, and wait for its end."""
        self.process.terminate()
        assert wait_for(self.manager, "STOPPING")
        assert wait_for_exit(self.process) == -signal.SIGTERM

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def abort(self) -> int:
        """End the service as the manager ends one that gives no sign of life.

        :return: its exit code.
        """
        self.process.send_signal(signal.SIGABRT)
        self.process.send_signal(signal.SIGCONT)
        return wait_for_exit(self.process)


@contextmanager
def run_service(folder: Path, job_server: str, **environment: str) -> Iterator[StandIn]:
    """Run the service in front of a job server while the context lasts."""
    manager = Manager(str(folder / "manager"))
    with ExitStack() as stack:
        stack.enter_context(manager.socket)
        sockets = {}
        for unit in ("jobproxy.socket", "jobproxy-callbacks.socket"):
            settings = read_unit(unit)
            end = socket.create_server(("127.0.0.1", 0), backlog=int(settings["Backlog"][0]))
            sockets[settings["FileDescriptorName"][0]] = stack.enter_context(end)
        callback = f"http://127.0.0.1:{sockets['callbacks'].getsockname()[1]}/callback"
        own = {
            "JOBPROXY_CALLBACK_URL": callback,
            "JOBPROXY_JOB_SERVER_URL": f"{job_server}/start",
            "JOBPROXY_ADMIN_LISTEN": f"tcp:{find_free_port()}:interface=127.0.0.1",
            "JOBPROXY_STORE": f"sqlite:{folder}/store.db",
            **environment,
        }
        service = StandIn(manager, own, sockets, folder / "log")
        try:
            service.start()
            yield service
        finally:
            service.kill()


def test_a_stalled_loop_is_restarted(tmp_path: Path) -> None:
    """T4: a loop that stalls for longer than allowed gives no sign of life, and is restarted."""
    # A store has a thread. If that gets the signal, the loop goes on for a moment, and may take the
    # client's connection with it, which no loop does that really stalls.
    options = {"WATCHDOG_USEC": "600000", "JOBPROXY_STORE": "memory:"}
    with serve_jobs() as server, run_service(tmp_path, server.url, **options) as proxy:
        for _ in range(4):
            assert wait_for(proxy.manager, "WATCHDOG")
        proxy.process.send_signal(signal.SIGSTOP)
        os.waitpid(proxy.process.pid, os.WUNTRACED)
        proxy.manager.receive()
        with Client(proxy.sockets["clients"].getsockname()[1]) as client:
            client.send_job(0)
            assert not wait_for(proxy.manager, "WATCHDOG", 1.0)
            assert proxy.abort() == -signal.SIGABRT
            assert "Fatal Python error: Aborted" in proxy.log.read_text()
            proxy.start()
            assert wait_for(proxy.manager, "WATCHDOG")
            server.wait_for(1)
            assert request(server.callbacks[0], result_of(0), "POST").status == 200
            # The connection was still in the queue of the socket.
            assert client.receive().body == result_of(0)


def test_a_new_connection_waits_for_the_next_process(tmp_path: Path) -> None:
    """G1: who connects while the service drains waits for the next process, and loses nothing."""
    with serve_jobs() as server, run_service(tmp_path, server.url) as proxy:
        port = proxy.sockets["clients"].getsockname()[1]
        with Client(port) as held:
            held.send_job(0)
            server.wait_for(1)
            proxy.process.terminate()
            assert wait_for(proxy.manager, "STOPPING")["STATUS"] == "draining, 1 clients held"
            with Client(port) as late:
                late.send_job(1)
                assert request(server.callbacks[0], result_of(0), "POST").status == 200
                assert held.receive().body == result_of(0)
                assert wait_for_exit(proxy.process) == -signal.SIGTERM
                assert not late.has_response()
                assert 1 not in server.callbacks
                proxy.start()
                server.wait_for(2)
                assert request(server.callbacks[1], result_of(1), "POST").status == 200
                assert late.receive().body == result_of(1)


def restart_under_load(folder: Path, restarts: int, clients: int) -> Counter[str]:
    """Restart the service again and again while clients come; return what became of their jobs.

    Between two restarts each client gets two responses or so.
    """
    with (
        DaemonProcess("jobserver", {"duration": "0.05"}) as server,
        run_service(folder, server.url) as proxy,
    ):
        with visit(proxy.sockets["clients"].getsockname()[1], clients) as visitors:
            for turn in range(restarts):
                visitors.wait_for(2 * clients * (turn + 1))
                proxy.stop()
                proxy.start()
        proxy.stop()
        assert "Traceback" not in proxy.log.read_text()
    return visitors.outcomes


def test_restarts_lose_no_response(tmp_path: Path) -> None:
    """G1: restarts refuse nobody and lose no response, as the manager keeps the sockets open."""
    outcomes = restart_under_load(tmp_path, restarts=3, clients=40)
    assert outcomes.keys() == {"200"}
    assert outcomes["200"] >= 240
