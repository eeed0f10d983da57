"""What SIGHUP does: opens the log again, and reads keys and certificates anew.

Held clients notice nothing.
"""

from collections.abc import Sequence

from attrs import define
from twisted.logger import Logger

from jobproxy import logs
from jobproxy.daemon.tls_ports import TlsPort
from jobproxy.store.key_file import read_keys
from jobproxy.wire.tokens import TokenSigner

_log = Logger()


@define(eq=False)
class Reload:
    """Reads files again; one that is wrong changes nothing.

    :param path: of the keys of callback tokens; :data:`None`: the key is random.
    :param ports: those with TLS.
    """

    _signer: TokenSigner
    _path: str | None
    _ports: Sequence[TlsPort] = ()

    def run(self) -> None:
        """Do it, and log what has changed."""
        try:
            logs.reopen()
        except OSError as error:
            _log.error("SIGHUP: the log cannot be opened again: {error}", error=error.strerror)
        if self._path is None and not self._ports:
            _log.info("SIGHUP: nothing to read again, as there is no --secret-file")
        if self._path is not None:
            self._read_keys(self._path)
        for port in self._ports:
            self._read_certificate(port)

    def _read_keys(self, path: str) -> None:
        try:
            keys = read_keys(path)
        except ValueError as error:
            _log.error("SIGHUP: {path} {error}; the old keys stay", path=path, error=error)
            return
        words = "has new keys" if self._signer.replace_keys(keys) else "has not changed"
        _log.info("SIGHUP: {path} {words}", path=path, words=words)

    def _read_certificate(self, port: TlsPort) -> None:
        try:
            port.reload()
        except Exception as error:  # OpenSSL, cryptography and the system have their own
            _log.error(
                "SIGHUP: the certificate of {port} cannot be used: {error}; the old one stays",
                port=port.description,
                error=error,
            )
        else:
            _log.info("SIGHUP: the certificate of {port} is read again", port=port.description)
