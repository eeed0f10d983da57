"""Why an SQLite file cannot be used as a store, and what that means for an operator."""

import sqlite3


class BadStore(Exception):
    """The file cannot be used; the message says why, and follows its name."""


class StoreInUse(BadStore):
    """Another process, of this program or another one, has the file; that passes by itself."""


OTHER_PROGRAM = "is a database of another program; name another file"
#: Errors of this program's own, raised where SQLite raises its errors.
REPLACED = "the file was replaced"
UNLOCKED = "the lock was removed"

_DAMAGE = {
    "file is not a database": "is not a database of SQLite, or is damaged",
    "database disk image is malformed": "is damaged",
}
_LOSSES = {
    REPLACED: "was removed or replaced while it was in use; restart the process",
    UNLOCKED: "has lost its lock: {lock} was removed or replaced, so that another process may use "
    "the store; restart the process",
}
_LOCKED = "database is locked"
_FULL = "database or disk is full"
_REASONS = {
    **_DAMAGE,
    _FULL: "has reached its max-size, or the disk is full",
    "attempt to write a readonly database": "cannot be written",
    "unable to open database file": "cannot be opened",
    _LOCKED: "is locked by another program; waiting until it has ended",
}


def explain(error: sqlite3.Error, lock: str = "its lock file") -> str:
    """Return what an error of SQLite means for an operator.

    :param lock: the name of the lock's file.
    """
    if is_loss(error):
        return _LOSSES[str(error)].format(lock=lock)
    return _REASONS.get(str(error), f"cannot be used: {error}")


def refuse(error: sqlite3.Error) -> BadStore:
    """Return the error of a file that cannot be opened for an error of SQLite."""
    kind = StoreInUse if str(error) == _LOCKED else BadStore
    return kind(explain(error))


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file seems to be damaged, so that it has to be checked anew."""
    return str(error) in _DAMAGE


def is_full(error: sqlite3.Error) -> bool:
    """Whether there is no room in the file, or on the disk."""
    return str(error) == _FULL


def is_loss(error: sqlite3.Error) -> bool:
    """Whether this process does not own the file any more, whose keys are promises."""
    return str(error) in _LOSSES
