"""Real ``twistd`` processes on this machine: started, waited for, and always stopped."""

import atexit
import os
import random
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from attrs import define, field

#: Ports for the daemons; outgoing connections get theirs from 32768 up, so none is in the way.
_PORTS = range(20_000, 32_000)
_holders: list[socket.socket] = []

LOGGERS = {"jobproxy": "jobproxy.logs.text_lines"}

#: Seconds; on a slow machine a daemon that has nothing wrong needs some of them.
START_TIMEOUT = 60.0
STOP_TIMEOUT = 10.0


class DaemonFailed(Exception):
    """A daemon did not start; the message ends with what it logged."""


def find_script(name: str) -> str:
    """Return the path of a console script of this Python environment."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def find_free_port() -> int:
    """Return a TCP port of 127.0.0.1 that nobody listens on.

    It is found only once, by whichever process, until :func:`release_ports` or the end of this
    process: a socket stays bound to it that does not listen. A server that sets ``SO_REUSEADDR``
    can listen on the port nevertheless, but a search for a free one binds without it.
    """
    for port in random.sample(_PORTS, 100):
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
            continue
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _holders.append(holder)
        return port
    raise DaemonFailed("no free port was found")


@atexit.register
def release_ports() -> None:
    """Free the ports that this process has reserved; for the end of a test."""
    while _holders:
        _holders.pop().close()


@define(eq=False)
class DaemonProcess:
    """A twistd plugin that runs in a process of its own while the context lasts.

    :param plugin: its name.
    :param options: its options, by name without dashes; ``listen`` is made from ``port``.
    :param port: the port of 127.0.0.1 that it serves on.
    :param logger: the full name of what makes twistd's log observer; by default the proxy's own,
        and Twisted's for the simulator.
    :param words: more options of ``twistd`` itself.
    :param variables: of its environment, besides those of this process.
    """

    plugin: str
    options: dict[str, str]
    port: int = field(factory=find_free_port)
    logger: str | None = None
    words: tuple[str, ...] = ()
    variables: dict[str, str] = field(factory=dict)
    process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _log: "tempfile._TemporaryFileWrapper[bytes]" = field(init=False, repr=False)

    @property
    def url(self) -> str:
        """Where it serves, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> "DaemonProcess":
        self._log = tempfile.NamedTemporaryFile(prefix=f"{self.plugin}-", suffix=".log")
        command = [find_script("twistd"), "--nodaemon", "--pidfile="]
        logger = LOGGERS.get(self.plugin) if self.logger is None else self.logger
        command += [f"--logger={logger}"] if logger else []
        command += [*self.words, self.plugin]
        command += [f"--listen=tcp:{self.port}:interface=127.0.0.1:backlog=4096"]
        command += [f"--{name}={value}" for name, value in self.options.items()]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=os.environ | self.variables,
        )
        try:
            wait_until_served(self.process, self.port)
        except DaemonFailed as error:
            log = self.log
            self.stop()
            raise DaemonFailed(f"{self.plugin} did not start: {error}\n{log}") from None
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process, in good order if it can."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()


def wait_until_served(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Return once a process listens on a port of 127.0.0.1.

    :raises DaemonFailed: if it ends, or takes too long.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DaemonFailed("it ended at once")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise DaemonFailed("it does not listen")


@contextmanager
def run_pair(
    job_server: dict[str, str], proxy: dict[str, str]
) -> Iterator[tuple[DaemonProcess, DaemonProcess]]:
    """Run the simulator, and a proxy in front of it, while the context lasts.

    :param job_server: more options of the simulator, by name.
    :param proxy: more options of the proxy.
    """
    with DaemonProcess("jobserver", job_server) as server:
        port = find_free_port()
        options = {
            "callback-url": f"http://127.0.0.1:{port}/callback",
            "job-server-url": f"{server.url}/start",
            **proxy,
        }
        with DaemonProcess("jobproxy", options, port) as front:
            yield server, front


def read_memory(pid: int) -> int:
    """Return the bytes of memory that a process has resident."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)
