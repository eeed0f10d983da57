"""The clock of a store in a file, by which all that is in the file expires.

It runs while a process uses the file, with the monotonic clock of that process, and stands still
while none does: the file says how far it has come, and the next process goes on from there. So no
step of the wall clock can make anything expire early, neither in a process nor between two, and
nobody has to know how long the machine was off. What is kept lives longer by the time in which no
process used the file.

A process that is killed loses what the file does not say yet: :data:`SAVE_INTERVAL`, and a
heartbeat.
"""

import sqlite3
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

#: Seconds after which the time is written into the file again.
SAVE_INTERVAL = 10.0


@define(eq=False)
class StoreClock:
    """The clock while a process uses the file."""

    _clock: IReactorTime
    #: What to add to the time of the reactor's clock to get the store's.
    _offset: float = field(default=0.0, init=False)
    _saved: float = field(default=0.0, init=False)

    def go_on(self, time: float) -> None:
        """Go on from a time, which is in the file."""
        self._offset = time - self._clock.seconds()
        self._saved = time

    def time(self) -> float:
        """Return the store's time in seconds."""
        return self._clock.seconds() + self._offset

    def take_due(self, time: float) -> bool:
        """Whether a time has to be written into the file now, as the last one that was is old."""
        is_due = time - self._saved >= SAVE_INTERVAL
        if is_due:
            self._saved = time
        return is_due


def begin(connection: sqlite3.Connection, wall: float) -> float:
    """Return how far the clock of a file has come, and write it to see whether that is possible.

    A file without one had times of the wall clock, as it was when a process began to use the file
    ("started"). It may have been put back since then. A new file may begin at any time.

    :param wall: Unix time in seconds.
    """
    time = _read(connection, "time")
    if time is None:
        time = max(wall, _read(connection, "started") or 0.0)
    write(connection, time, wall)
    return time


def write(connection: sqlite3.Connection, time: float, wall: float) -> None:
    """Write how far the clock has come, and what the wall clock shows then."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('time', ?), ('wall', ?)", (time, wall))


def read_lag(connection: sqlite3.Connection) -> float:
    """Return what to add to a time of the store to get Unix time, as the last process knew it."""
    time, wall = _read(connection, "time"), _read(connection, "wall")
    return 0.0 if time is None or wall is None else wall - time


def _read(connection: sqlite3.Connection, name: str) -> Any:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return None if row is None else row[0]
