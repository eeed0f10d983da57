"""The SQLite file of a store: who may use it, whether it is sound, and its tables."""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import define, field

from jobproxy.store import sqlite_clock
from jobproxy.store.sqlite_address import SqliteAddress
from jobproxy.store.sqlite_errors import (
    OTHER_PROGRAM,
    REPLACED,
    UNLOCKED,
    BadStore,
    StoreInUse,
    explain,
    refuse,
)
from jobproxy.store.sqlite_lock import FileLock, read_owner

#: ``jobp``: marks the files of this program ("PRAGMA application_id").
APPLICATION = 0x6A6F6270
#: Seconds to wait for another program that writes to the file.
BUSY_TIMEOUT = 1.0
#: Bytes that the write-ahead log keeps on disk when it is empty.
MAX_LOG = 16 * 2**20
#: The size in bytes up to which all pages are checked at the start, which takes a second or so.
MAX_CHECKED = 512 * 2**20
#: Kibibytes of the file that are kept in memory.
CACHE = 16_384

#: For each version of the tables the statements that make it from the version before.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
        # Idempotency keys, and the jobs for which they stand. Times are those of the store's clock.
        # Rows in the order of their insertion share pages; a key digest is like a random number.
        """CREATE TABLE claims (key_digest BLOB PRIMARY KEY, job_id TEXT NOT NULL,
        request_digest BLOB NOT NULL, has_ended INTEGER NOT NULL, expires REAL NOT NULL)""",
        "CREATE INDEX claims_expire ON claims (expires)",
        # A job has an ack until it has a result; "came" is when that came, in milliseconds.
        """CREATE TABLE jobs (job_id TEXT PRIMARY KEY, ack BLOB, result BLOB, upstream_id TEXT,
        came INTEGER, is_orphan INTEGER NOT NULL, expires REAL NOT NULL)""",
        "CREATE INDEX jobs_expire ON jobs (expires)",
        "CREATE INDEX orphans ON jobs (came, job_id) WHERE is_orphan",
    ),
    # A result comes without the key of its job if an earlier process started it. The index has
    # only the jobs that run, and so few pages.
    ("CREATE INDEX claims_run ON claims (job_id) WHERE NOT has_ended",),
    # Times were Unix time before. A program that still takes them for that must not open the file.
    (),
)


@define(eq=False)
class SqliteFile:
    """One process's access to the file. All methods touch the disk, and may block.

    :param migrations: see :data:`MIGRATIONS`.
    :ivar time: what the store's clock showed when the file was opened.
    """

    address: SqliteAddress
    _migrations: Sequence[Sequence[str]] = MIGRATIONS
    _lock: FileLock = field(factory=FileLock, init=False)
    #: The file system's numbers of the file that was opened, and of its write-ahead log.
    _numbers: tuple[int, int] = field(default=(0, 0), init=False)
    #: Bytes of the file, which never shrinks.
    _size: int = field(default=0, init=False)
    time: float = field(default=0.0, init=False)

    def open(self, now: float) -> sqlite3.Connection:
        """Lock the file and open it; see :meth:`connect`.

        A process that has the lock already keeps it, also if the file cannot be opened again.

        :raises StoreInUse: if another process has it.
        """
        is_owner = self._lock.is_held
        if not self.lock():
            raise StoreInUse(f"is used by process {self.read_owner()}; waiting until it has ended")
        try:
            return self.connect(now)
        except BaseException:
            if not is_owner:
                self._lock.release()
            raise

    def lock(self) -> bool:
        """Lock the file for this process; return whether that succeeded, without waiting.

        :raises BadStore: if there can be no lock, or the one that was taken is lost.
        """
        if self._lock.is_held:
            if not self._lock.is_kept():
                raise BadStore(self.explain(sqlite3.OperationalError(UNLOCKED)))
            return True
        try:
            return self._lock.take(self.address.lock_path)
        except OSError as error:
            raise BadStore(_explain_folder(self.address.path, error)) from None

    def unlock(self) -> None:
        """Forget the file, and release the lock, so that another process can use it."""
        self._size = 0
        self._lock.release()

    def read_owner(self) -> str:
        """Return the number of the process that has locked the file."""
        return read_owner(self.address.lock_path)

    def explain(self, error: sqlite3.Error) -> str:
        """Return what an error means for an operator; it follows the name of the file."""
        return explain(error, Path(self.address.lock_path).name)

    def check_place(self) -> None:
        """Check that the lock, the file and its log are still those that were taken and opened.

        What is written to a file that has no name any more is lost with the process, and so is what
        is only in a log that has none.

        :raises sqlite3.OperationalError: if one is not.
        """
        if not self._lock.is_kept():
            raise sqlite3.OperationalError(UNLOCKED)
        numbers, size = self._look()
        if numbers != self._numbers or size < self._size:
            raise sqlite3.OperationalError(REPLACED)
        self._size = size

    def _look(self) -> tuple[tuple[int, int], int]:
        """Return the numbers of the file and its log, and the bytes of the file; 0: not there."""
        file, log = (_find(path) for path in (self.address.path, self.address.log_path))
        return (file[0], log[0]), file[1]

    def connect(self, now: float) -> sqlite3.Connection:
        """Open the file, which is made if there is none; any one thread may use it at a time.

        :param now: Unix time in seconds.
        :raises BadStore: if it is not a store of this program, is damaged, or cannot be written.
        """
        path = self.address.path
        if self._size and not _find(path)[1]:
            # A new file would have none of the keys that are promises.
            raise BadStore("is gone or empty; restore a backup, or restart to begin a new one")
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise BadStore(_explain_folder(path, error)) from None
        names = Path(path).stat().st_nlink
        if names > 1:
            # Each of them would have a lock, a log and a key of its own.
            others = "the other one" if names == 2 else "the others"
            raise BadStore(f"has {names} names (hard links): remove {others}, or copy the file")
        try:
            connection = sqlite3.connect(
                path, BUSY_TIMEOUT, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise refuse(error) from None
        try:
            self._prepare(connection)
            if Path(path).stat().st_size <= MAX_CHECKED:
                check(connection)
            self.time = sqlite_clock.begin(connection, now)
        except sqlite3.Error as error:
            connection.close()
            raise refuse(error) from None
        except BadStore:
            connection.close()
            raise
        self._numbers, self._size = self._look()
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        version = check_format(connection, len(self._migrations))
        if ask(connection, "PRAGMA journal_mode = WAL") != "wal":
            raise BadStore("is on a file system without write-ahead logs; use a local disk")
        connection.execute(f"PRAGMA synchronous = {self.address.synchronous}")
        page = ask(connection, "PRAGMA page_size")
        connection.execute(f"PRAGMA max_page_count = {self.address.max_size // page}")
        connection.execute(f"PRAGMA journal_size_limit = {MAX_LOG}")
        connection.execute(f"PRAGMA cache_size = -{CACHE}")
        if version == len(self._migrations):
            return
        connection.execute("BEGIN IMMEDIATE")
        for statements in self._migrations[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {len(self._migrations)}")
        connection.execute("COMMIT")


def check_format(connection: sqlite3.Connection, newest: int = len(MIGRATIONS)) -> int:
    """Return the version of the tables; 0: there are none yet.

    :param newest: the newest version that can be read.
    :raises BadStore: if another program, or a newer version of this one, made them.
    """
    version: int = ask(connection, "PRAGMA user_version")
    is_empty = not ask(connection, "SELECT count(*) FROM sqlite_master")
    if ask(connection, "PRAGMA application_id") != APPLICATION and not (is_empty and not version):
        raise BadStore(OTHER_PROGRAM)
    if version > newest:
        raise BadStore(
            f"was written by a newer version of jobproxy: its format is {version}, and this "
            f"version reads up to {newest}"
        )
    return version


def check(connection: sqlite3.Connection, *, is_thorough: bool = False) -> None:
    """Check that the pages of the file are sound.

    :param is_thorough: whether to check also that the indexes fit the tables, which takes longer.
    :raises BadStore: if one is damaged.
    """
    found = ask(connection, f"PRAGMA {'integrity' if is_thorough else 'quick'}_check(1)")
    if found != "ok":
        reason = " ".join(found.split())
        raise BadStore(f"is damaged ({reason}); restore a backup, or move it away")


def ask(connection: sqlite3.Connection, question: str) -> Any:
    """Return the only value that a statement gives."""
    with closing(connection.execute(question)) as cursor:
        row = cursor.fetchone()
    return None if row is None else row[0]


def _explain_folder(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return f"cannot be made: there is no folder {str(Path(path).parent)!r}"
    return f"cannot be opened: {error.strerror}"


def _find(path: str) -> tuple[int, int]:
    """Return the number and the bytes of a file; 0, 0: there is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_size
