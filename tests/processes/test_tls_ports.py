"""Ports with TLS: certificates that are replaced while clients are held, and those of clients."""

import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import define, field

from jobproxy.sandbox.processes import find_free_port
from tests.support.identities import ADDRESS, Identity, authority, issue
from tests.support.socket_client import Client, request, result_of
from tests.support.stage import Stage, run_stage
from tests.support.waiting import DEADLINE, wait_until


@define(eq=False)
class TlsPort:
    """A port with TLS besides the plain one, and the files of its certificate."""

    folder: Path
    number: int = field(factory=find_free_port, init=False)

    def write(self, identity: Identity) -> None:
        (self.folder / "key.pem").write_bytes(identity.key_pem)
        (self.folder / "certificate.pem").write_bytes(identity.pem)

    @property
    def endpoint(self) -> str:
        files = f"privateKey={self.folder}/key.pem:certKey={self.folder}/certificate.pem"
        return f"ssl:{self.number}:interface=127.0.0.1:{files}"

    @contextmanager
    def connect(self, identity: Path | None = None) -> Iterator[tuple[Client, bytes]]:
        """Connect as a client, perhaps with a certificate; yield the server's certificate too."""
        trusted = self.folder / "authority.pem"
        trusted.write_bytes(authority().pem)
        context = ssl.create_default_context(cafile=str(trusted))
        if identity is not None:
            context.load_cert_chain(identity)
        plain = socket.create_connection(("127.0.0.1", self.number), DEADLINE)
        with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as end:
            yield Client(end), end.getpeercert(binary_form=True) or b""

    @contextmanager
    def run(self, **options: str) -> Iterator[Stage]:
        """Run a proxy that listens here, and on a plain port for callbacks."""
        callbacks = find_free_port()
        with run_stage(
            callback_url=f"http://127.0.0.1:{callbacks}/callback",
            callback_listen=f"tcp:{callbacks}:interface=127.0.0.1",
            listen=self.endpoint,
            **options,
        ) as stage:
            yield stage


def hang_up(stage: Stage, words: str) -> None:
    """Send SIGHUP, and wait until the log has some words once more."""
    before = stage.proxy.log.count(words)
    stage.proxy.process.send_signal(signal.SIGHUP)
    wait_until(lambda: stage.proxy.log.count(words) > before)


def is_served(port: TlsPort, identity: Path | None = None) -> bool:
    """Whether a client gets a response; with TLS 1.3 it learns that it gets none when it reads."""
    try:
        with port.connect(identity) as (client, _):
            client.ask("GET", "/jobs/x")
            client.receive()
    except OSError:
        return False
    return True


def test_certificate_is_read_again_and_no_client_is_lost(tmp_path: Path) -> None:
    """G14: SIGHUP reads the files of a port with TLS again; wrong ones change nothing."""
    port = TlsPort(tmp_path)
    port.write(issue(authority(), ADDRESS))
    with port.run() as stage, port.connect() as (held, first):
        held.send_job(0)
        stage.server.wait_for_acks([0])
        port.write(issue(authority(), ADDRESS))
        hang_up(stage, "is read again")
        with port.connect() as (_, second):
            assert second != first
        (tmp_path / "key.pem").write_bytes(issue(authority(), ADDRESS).key_pem)
        hang_up(stage, "the old one stays")
        (tmp_path / "key.pem").unlink()
        hang_up(stage, "the old one stays")
        with port.connect() as (client, third):
            assert third == second
            client.send_job(1)
            stage.server.wait_for_acks([1])
            for number, each in enumerate((held, client)):
                url = stage.server.callbacks[number]
                assert request(url, result_of(number), "POST").status == 200
                assert each.receive().body == result_of(number)
        assert "Traceback" not in stage.proxy.log


def test_clients_must_have_a_certificate_of_the_authority(tmp_path: Path) -> None:
    """G14: without one of ``--client-ca`` no request is read; SIGHUP reads that file again."""
    port = TlsPort(tmp_path)
    port.write(issue(authority(), ADDRESS))
    known, stranger, trusted = (tmp_path / name for name in ("known", "stranger", "clients.pem"))
    for path, identity in (
        (known, issue(authority(1), ADDRESS)),
        (stranger, issue(authority(2), ADDRESS)),
    ):
        path.write_bytes(identity.key_pem + identity.pem)
    trusted.write_bytes(authority(1).pem)
    with port.run(client_ca=str(trusted)) as stage:
        assert not is_served(port)
        assert not is_served(port, stranger)
        with port.connect(known) as (client, _):
            client.send_job(0)
            stage.server.wait_for_acks([0])
            assert request(stage.server.callbacks[0], result_of(0), "POST").status == 200
            assert client.receive().body == result_of(0)
        hang_up(stage, "is read again")
        assert not is_served(port)
        trusted.write_bytes(authority(2).pem)
        hang_up(stage, f"{trusted} is read again")
        assert is_served(port, stranger)
        assert not is_served(port, known)
        trusted.write_bytes(b"no certificate")
        hang_up(stage, f"--client-ca names {trusted}, which has no certificate in PEM")
        assert is_served(port, stranger)
        assert not is_served(port, known)
        assert "Traceback" not in stage.proxy.log
