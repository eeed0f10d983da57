"""The lock beside the file of a store: one process owns that file at a time."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from attrs import define, field

from jobproxy.store.sqlite_errors import BadStore


@define(eq=False)
class FileLock:
    """A lock that ends with the process, however that ends. It is never waited for.

    Not the store's file itself is locked: SQLite's own locks on it would end as soon as this
    process closed it once.
    """

    _path: str = field(default="", init=False)
    _found: int | None = field(default=None, init=False)

    @property
    def is_held(self) -> bool:
        """Whether this process has taken the lock; see :meth:`is_kept`."""
        return self._found is not None

    def take(self, path: str) -> bool:
        """Take the lock, whose file is made if there is none; return whether that succeeded.

        :raises BadStore: if there can be no lock.
        :raises OSError: if its file cannot be opened.
        """
        found: int | None = None
        # Somebody may remove the file, and another process lock a new one, before it is locked.
        while found is None or not _is_at(found, path):
            if found is not None:
                os.close(found)
            found = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(found)
                return False
            except OSError as error:
                os.close(found)
                raise BadStore(f"cannot be locked: {error.strerror}") from None
        self._path, self._found = path, found
        # The number is for people; a full disk has no room for it.
        with suppress(OSError):
            os.truncate(found, 0)
            os.pwrite(found, b"%d\n" % os.getpid(), 0)
        return True

    def is_kept(self) -> bool:
        """Whether nobody else can take the lock: its file is the one that others would lock."""
        return self._found is not None and _is_at(self._found, self._path)

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._found is not None:
            os.close(self._found)
            self._found = None


def read_owner(path: str) -> str:
    """Return the number of the process that has a lock."""
    try:
        return Path(path).read_text(encoding="ascii").strip() or "?"
    except (OSError, UnicodeDecodeError):
        return "?"


def _is_at(found: int, path: str) -> bool:
    """Whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(found), os.stat(path))  # noqa: PTH116 - it is called often
    except OSError:
        return False
