"""The ways to listen that Twisted's endpoint descriptions know, and how one connects to each."""

import fcntl
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from attrs import define, field

from jobproxy.sandbox.processes import find_free_port, find_script
from tests.support.identities import ADDRESS, authority, issue
from tests.support.service_manager import EXEC
from tests.support.socket_client import Client
from tests.support.waiting import DEADLINE, wait_until


@define(eq=False)
class Way:
    """One way to listen, at as many places as are asked for.

    :param kind: one of :data:`KINDS`.
    :param folder: for sockets and certificates.
    :ivar urls: where each place is, as ``jobproxyctl`` takes it; empty: it cannot.
    :ivar inherited: the sockets that the process gets from its manager.
    """

    kind: str
    folder: Path
    urls: list[str] = field(factory=list, init=False)
    inherited: list[socket.socket] = field(factory=list, init=False)
    _connects: list[Callable[[], socket.socket]] = field(factory=list, init=False)

    def close(self) -> None:
        """Close the sockets that the process was given."""
        for listener in self.inherited:
            listener.close()

    def add(self) -> str:
        """Add a place to listen at; return the endpoint's description."""
        make: Callable[[], str] = getattr(self, f"_add_{self.kind.replace('-', '_')}")
        return make()

    def connect(self, number: int) -> Client:
        """Connect to one of the places."""
        end = self._connects[number]()
        end.settimeout(DEADLINE)
        return Client(end)

    @property
    def authority(self) -> Path:
        """Whom clients have to trust."""
        return self.folder / "authority.pem"

    def _note(self, url: str, connect: Callable[[], socket.socket]) -> None:
        self.urls.append(url)
        self._connects.append(connect)

    def _add_address(self, host: str) -> int:
        address = (host, find_free_port())
        self._note(_make_url(address), partial(socket.create_connection, address))
        return address[1]

    def _add_tcp(self) -> str:
        return f"tcp:{self._add_address('127.0.0.1')}:interface=127.0.0.1"

    def _add_tcp6(self) -> str:
        return f"tcp6:{self._add_address('::1')}:interface=\\:\\:1"

    def _add_haproxy(self) -> str:
        address = ("127.0.0.1", find_free_port())

        def connect() -> socket.socket:
            end = socket.create_connection(address)
            end.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 80\r\n")
            return end

        self._note("", connect)
        return f"haproxy:tcp:{address[1]}:interface=127.0.0.1"

    def _add_ssl(self) -> str:
        address, identity = ("127.0.0.1", find_free_port()), issue(authority(), ADDRESS)
        key, certificate = (self.folder / f"{address[1]}.{end}" for end in ("key", "pem"))
        key.write_bytes(identity.key_pem)
        certificate.write_bytes(identity.pem)
        self.authority.write_bytes(authority().pem)
        context = ssl.create_default_context(cafile=str(self.authority))

        def connect() -> socket.socket:
            plain = socket.create_connection(address)
            return context.wrap_socket(plain, server_hostname=address[0])

        self._note(_make_url(address, "https"), connect)
        return f"ssl:{address[1]}:interface={address[0]}:privateKey={key}:certKey={certificate}"

    def _add_unix(self) -> str:
        return f"unix:{self._add_path()}"

    def _add_path(self) -> str:
        path = str(self.folder / f"socket-{len(self.urls)}")
        self._note(f"unix:{path}", partial(_connect_unix, path))
        return path

    def _add_systemd_inet(self) -> str:
        return self._inherit("INET", socket.create_server(("127.0.0.1", 0)))

    def _add_systemd_inet6(self) -> str:
        return self._inherit("INET6", socket.create_server(("::1", 0), family=socket.AF_INET6))

    def _add_systemd_unix(self) -> str:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._add_path())
        listener.listen()
        return self._inherit("UNIX", listener)

    def _inherit(self, domain: str, listener: socket.socket) -> str:
        if domain != "UNIX":
            address = listener.getsockname()[:2]
            self._note(_make_url(address), partial(socket.create_connection, address))
        self.inherited.append(listener)
        return f"systemd:domain={domain}:index={len(self.inherited) - 1}"


KINDS = [
    "tcp",
    "tcp6",
    "ssl",
    "unix",
    "haproxy",
    "systemd-inet",
    "systemd-inet6",
    "systemd-unix",
]


def _make_url(address: tuple[Any, ...], scheme: str = "http") -> str:
    host, port = address
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _connect_unix(path: str) -> socket.socket:
    end = socket.socket(socket.AF_UNIX)
    try:
        end.connect(path)
    except BaseException:
        end.close()
        raise
    return end


@contextmanager
def run_on(way: Way, options: dict[str, str], operator: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a proxy that listens in this way while the context lasts.

    :param operator: the number of the place for the operator.
    """
    inherited = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in way.inherited]
    command = [find_script("twistd"), "--nodaemon", "--pidfile=", "jobproxy"]
    command += [f"--{name}={value}" for name, value in options.items()]
    variables = dict(os.environ)
    if inherited:
        command = [sys.executable, "-ISc", EXEC, ",".join(map(str, inherited)), *command]
        variables["LISTEN_FDS"] = str(len(inherited))
        variables["LISTEN_FDNAMES"] = ":".join("place" for _ in inherited)
    log = way.folder / "log"
    with ExitStack() as stack:
        process = subprocess.Popen(
            command,
            env=variables,
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context(log.open("wb")),
            stderr=subprocess.STDOUT,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        for number in inherited:
            os.close(number)

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                with way.connect(operator) as client:
                    client.ask("GET", "/readyz", Connection="close")
                    return client.receive().status == 200
            except OSError:
                return False

        wait_until(is_ready)
        yield process
        assert "Traceback" not in log.read_text()
