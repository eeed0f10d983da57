"""The files that SIGHUP reads again: who reads them, and who uses what is in them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.ssl import Certificate

from jobproxy.app.build import Proxy
from jobproxy.app.reload import FileInUse
from jobproxy.app.upstream_readers import read_authorities, read_header_file, read_identity
from jobproxy.daemon.tls_ports import TlsPort
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.tls import ClientIdentity
from jobproxy.store.key_file import read_keys
from jobproxy.wire.tokens import TokenSigner

#: Options whose files are not read again.
FIXED = ("config", "profile", "store-password-file")
READ_AGAIN = "is read again"


def list_files(
    find_text: Callable[[str], str | None], proxy: Proxy, agent: PooledAgent, key_path: str | None
) -> list[FileInUse]:
    """Return the files that SIGHUP reads again, but for those of ports.

    :param find_text: returns the text of an option.
    :param agent: sends requests to job servers.
    :param key_path: the file of the keys of callback tokens.
    """
    files = [] if key_path is None else [_keys_in(key_path, proxy.signer)]

    def use_roots(roots: Sequence[Certificate]) -> str:
        agent.replace_tls(evolve(agent.tls, roots=tuple(roots)))
        return READ_AGAIN

    def use_identity(identity: ClientIdentity) -> str:
        agent.replace_tls(evolve(agent.tls, identity=identity))
        return READ_AGAIN

    def use_headers(headers: Sequence[tuple[bytes, bytes]]) -> str:
        for gateway in proxy.gateways:
            # A profile has headers of its own.
            if not gateway.profile:
                gateway.starter.job_server.replace_headers(headers)
        return READ_AGAIN

    readers: dict[str, tuple[Callable[[str], Any], Callable[[Any], str]]] = {
        "upstream-ca": (read_authorities, use_roots),
        "upstream-certificate": (read_identity, use_identity),
        "job-server-header-file": (read_header_file, use_headers),
    }
    for name, (read, use) in readers.items():
        path = find_text(name)
        if path is not None:
            files.append(FileInUse(f"--{name}", make_absolute(path), read, use))
    return files


def authorities_in(path: str, ports: Sequence[TlsPort]) -> FileInUse:
    """Return the file with the authorities of clients, for these ports."""

    def use(authorities: Sequence[Certificate]) -> str:
        for port in ports:
            port.replace_authorities(authorities)
        return READ_AGAIN

    return FileInUse("--client-ca", make_absolute(path), read_authorities, use)


def make_absolute(path: str) -> str:
    """Return an absolute path: a daemon leaves its folder once it has started (``--rundir``)."""
    return str(Path(path).absolute())


def _keys_in(path: str, signer: TokenSigner) -> FileInUse:
    def use(keys: Sequence[bytes]) -> str:
        return "has new keys" if signer.replace_keys(keys) else "has not changed"

    path = make_absolute(path)
    return FileInUse(path, path, read_keys, use)
