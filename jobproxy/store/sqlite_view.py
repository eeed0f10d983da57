"""Reads the file of a store and changes nothing: not the file, not its log, not its folder."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import quote

from attrs import define, field

from jobproxy.store.sqlite_address import SqliteAddress
from jobproxy.store.sqlite_errors import OTHER_PROGRAM, BadStore, explain
from jobproxy.store.sqlite_file import APPLICATION, check_format

Found = TypeVar("Found")

_MAGIC = b"SQLite format 3\0"
#: Where the header of a database has its "PRAGMA application_id".
_APPLICATION = slice(68, 72)
_HEADER = 100
#: How a write-ahead log begins that has something in it.
_LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_LOG_HEADER = 32
#: How often a file is read again that was changed meanwhile.
TRIES = 5

_Look = tuple[tuple[int, int, int], ...]


@define(eq=False)
class View:
    """Reads a file and its log, which a process may use, or have left when it was killed.

    While a process uses the file, its locks keep what is read together. If there is no log, the
    file is read without any lock, for which SQLite would make files; and if there is a log without
    its index, a copy is read. Then it is read again if something was written meanwhile.
    """

    _path: str
    _connection: sqlite3.Connection | None = field(default=None, init=False)
    #: What the files were like, if no lock keeps them so.
    _seen: _Look | None = field(default=None, init=False)
    _files: SqliteAddress = field(init=False)
    _copy: "TemporaryDirectory[str] | None" = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._files = SqliteAddress(os.path.realpath(self._path))

    def read(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        """Do some work in one transaction, which has ended when this returns.

        :raises BadStore: if it is not the file of a store, or is damaged; the message follows its
            name.
        """
        for _ in range(TRIES):
            try:
                found = self._try(work)
            except sqlite3.Error as error:
                if self._is_current():
                    raise BadStore(explain(error)) from None
            except BadStore:
                if self._is_current():
                    raise
            else:
                if self._is_current():
                    return found
            self.close()
        raise BadStore("is changed all the time while it is read")

    def close(self) -> None:
        """Close the file, until it is read again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        copy, self._copy = self._copy, None
        if copy is not None:
            copy.cleanup()

    def _try(self, work: Callable[[sqlite3.Connection], Found]) -> Found:
        if self._connection is None:
            self._connection = self._open()
            if not _in_transaction(self._connection, check_format):
                raise BadStore("is empty; it is not the file of a store")
        return _in_transaction(self._connection, work)

    def _is_current(self) -> bool:
        return self._seen is None or self._seen == _look_at(self._files)

    def _open(self) -> sqlite3.Connection:
        files, self._seen = self._files, None
        check_header(files.path)
        self._seen = _look_at(files)
        has_journal = bool(self._seen[2][1])
        if not has_journal and not _has_frames(files.log_path):
            return _connect(files.path, "mode=ro&immutable=1")
        if has_journal or Path(files.index_path).exists():
            self._seen = None
            return _connect(files.path, "mode=ro&readonly_shm=1")
        self._copy = TemporaryDirectory()
        copy = SqliteAddress(f"{self._copy.name}/copy")
        try:
            shutil.copyfile(files.path, copy.path)
            shutil.copyfile(files.log_path, copy.log_path)
        except OSError as error:
            raise BadStore(f"cannot be copied to {self._copy.name}: {error.strerror}") from None
        if not self._is_current():
            raise BadStore("was changed while it was copied")
        self._seen = None
        return _connect(copy.path, "mode=rw")


def check_header(path: str) -> None:
    """Check without SQLite that a file may be the file of a store.

    A new file says only in its log whose it is.

    :raises BadStore: if it is certainly none; the message follows its name.
    """
    try:
        mode = Path(path).stat().st_mode
        if not S_ISREG(mode) and not S_ISDIR(mode):
            # To open a pipe or a device can take for ever, or change something.
            raise BadStore("is not a regular file")
        with Path(path).open("rb") as file:
            header = file.read(_HEADER)
    except OSError as error:
        raise BadStore(f"cannot be opened: {error.strerror}") from None
    if not header:
        raise BadStore("is empty; it is not the file of a store")
    if not header.startswith(_MAGIC):
        raise BadStore(explain(sqlite3.DatabaseError("file is not a database")))
    if int.from_bytes(header[_APPLICATION], "big") not in (0, APPLICATION):
        raise BadStore(OTHER_PROGRAM)


def _has_frames(path: str) -> bool:
    """Whether a write-ahead log may have something in it.

    :raises BadStore: if it cannot be read.
    """
    try:
        if not S_ISREG(Path(path).stat().st_mode):
            return False
        with Path(path).open("rb") as file:
            header = file.read(_LOG_HEADER + 1)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise BadStore(f"has a log that cannot be opened: {error.strerror}") from None
    return header.startswith(_LOG_MAGIC) and len(header) > _LOG_HEADER


def _connect(path: str, query: str) -> sqlite3.Connection:
    name = f"file://{quote(os.fsencode(path))}?{query}"
    return sqlite3.connect(name, uri=True, isolation_level=None)


def _in_transaction(
    connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Found]
) -> Found:
    connection.execute("BEGIN")
    try:
        return work(connection)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _look_at(files: SqliteAddress) -> _Look:
    """Return what changes when something is written."""
    return tuple(_look(path) for path in (files.path, files.log_path, files.journal_path))


def _look(path: str) -> tuple[int, int, int]:
    try:
        found = Path(path).stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns
