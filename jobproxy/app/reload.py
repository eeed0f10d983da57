"""What SIGHUP does: opens the log again, and reads keys, credentials and certificates anew.

Held clients notice nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, frozen
from twisted.logger import Logger

from jobproxy import logs
from jobproxy.daemon.tls_ports import TlsPort

_log = Logger()


@frozen(eq=False)
class FileInUse:
    """A file that an option names, and that can be read again.

    :param name: begins the line about a mistake: that of the option, or of the file itself.
    :param read: reads the file with this path; its :class:`ValueError` is a message that follows
        the name.
    :param use: uses what was read, and returns what to say of it behind the path. It may raise
        whatever the libraries do; what was used before is used then.
    """

    name: str
    path: str
    read: Callable[[str], Any]
    use: Callable[[Any], str]

    def read_again(self) -> None:
        """Do it, and log what has changed."""
        try:
            words = self.use(self.read(self.path))
        except Exception as error:  # OpenSSL and cryptography have their own
            _log.error(
                "SIGHUP: {name} {error}; what was read before stays", name=self.name, error=error
            )
        else:
            _log.info("SIGHUP: {path} {words}", path=self.path, words=words)


@define(eq=False)
class Reload:
    """Reads files again; one that is wrong changes nothing.

    :param files: that options name.
    :param ports: those with TLS.
    :param fixed: options whose files are read at the start alone.
    """

    _files: Sequence[FileInUse] = ()
    _ports: Sequence[TlsPort] = ()
    _fixed: Sequence[str] = ()

    def run(self) -> None:
        """Do it, and log what has changed."""
        try:
            logs.reopen()
        except OSError as error:
            _log.error("SIGHUP: the log cannot be opened again: {error}", error=error.strerror)
        if not self._files and not self._ports:
            _log.info("SIGHUP: nothing to read again, as there is no --secret-file")
        for file in self._files:
            file.read_again()
        for port in self._ports:
            self._read_certificate(port)
        if self._fixed:
            _log.info(
                "SIGHUP: what {options} names is read at the start alone",
                options=" or ".join(f"--{name}" for name in self._fixed),
            )

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
