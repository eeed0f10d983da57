"""The address of a store in an SQLite file, parsed from its URL."""

import re
from pathlib import Path
from urllib.parse import parse_qsl

from attrs import frozen

#: Bytes that the file may have, unless the URL says otherwise.
MAX_SIZE = 4 * 2**30

_FORM = "must be sqlite:PATH, like sqlite:/var/lib/jobproxy/store.db"
_SIZE = re.compile(r"([1-9][0-9]{0,14})([KMGT]?)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SYNCHRONOUS = ("full", "normal")


@frozen
class SqliteAddress:
    """Where the file is, and how it is written.

    :param synchronous: ``full``: what was committed survives a power cut; ``normal``: the last
        moments may be lost then, but not if only the process ends.
    :param max_size: bytes that the file may have; when it is full, nothing new is stored.
    """

    path: str
    synchronous: str = "full"
    max_size: int = MAX_SIZE

    @property
    def key_path(self) -> str:
        """The file of the key that signs callback tokens, unless another one is given."""
        return f"{self._own_path}.key"

    @property
    def lock_path(self) -> str:
        """The file that the process locks which uses the store."""
        return f"{self._own_path}.lock"

    @property
    def log_path(self) -> str:
        """The write-ahead log that SQLite keeps beside the file."""
        return f"{self._own_path}-wal"

    @property
    def index_path(self) -> str:
        """The index of that log, which the processes share that have the file open."""
        return f"{self._own_path}-shm"

    @property
    def journal_path(self) -> str:
        """The rollback journal, which SQLite keeps instead of the log in files of other modes."""
        return f"{self._own_path}-journal"

    @property
    def _own_path(self) -> Path:
        """The same for all names of the file: a link must not give it a second owner."""
        return Path(self.path).resolve()


def read_sqlite_address(text: str) -> SqliteAddress:
    """Parse ``sqlite:PATH?synchronous=full|normal&max-size=BYTES``, without the scheme.

    :raises ValueError: if it is invalid.
    """
    path, has_query, query = text.partition("?")
    if path.startswith("//"):
        raise ValueError(f"{_FORM}; leave out the // after sqlite:")
    if not path or path.endswith("/"):
        raise ValueError(_FORM)
    values = dict(parse_qsl(query, keep_blank_values=True))
    if has_query and not values:
        raise ValueError(_FORM)
    synchronous = values.pop("synchronous", "full")
    if synchronous not in _SYNCHRONOUS:
        raise ValueError(f"must have synchronous=full or synchronous=normal, not {synchronous!r}")
    max_size = _read_size(values.pop("max-size")) if "max-size" in values else MAX_SIZE
    if values:
        raise ValueError(
            f"has an unknown part {next(iter(values))!r}; known are synchronous and max-size"
        )
    return SqliteAddress(path, synchronous, max_size)


def _read_size(text: str) -> int:
    match = _SIZE.fullmatch(text)
    size = int(match[1]) * _UNITS[match[2]] if match else 0
    if size < 2**20:
        raise ValueError(f"must have a max-size of at least 1M, like 512M or 8G, not {text!r}")
    return size
