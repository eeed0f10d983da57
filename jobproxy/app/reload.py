"""What SIGHUP does: reads the keys of callback tokens anew. Held clients notice nothing."""

from attrs import define
from twisted.logger import Logger

from jobproxy.store.key_file import read_keys
from jobproxy.wire.tokens import TokenSigner

_log = Logger()


@define(eq=False)
class Reload:
    """Reads the file of the keys again; a file that is wrong changes nothing.

    :param path: of the file; :data:`None`: the key is random, and there is nothing to read.
    """

    _signer: TokenSigner
    _path: str | None

    def run(self) -> None:
        """Do it, and log what has changed."""
        if self._path is None:
            _log.info("SIGHUP: nothing to read again, as there is no --secret-file")
            return
        try:
            keys = read_keys(self._path)
        except ValueError as error:
            _log.error("SIGHUP: {path} {error}; the old keys stay", path=self._path, error=error)
            return
        words = "has new keys" if self._signer.replace_keys(keys) else "has not changed"
        _log.info("SIGHUP: {path} {words}", path=self._path, words=words)
