"""Log lines for ``twistd --logger``: JSON for machines, text for people, and nobody waits for them.

A log that is not read, or a disk that is full, must not stop the loop: what cannot be written at
once is kept for a while, and then dropped and counted.
"""

import atexit
import json
import os
import re
import select
import socket
import stat
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any, cast

from attrs import define, field
from twisted.logger import ILogObserver, LogEvent, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

#: Bytes of lines that are kept while nobody takes them.
MAX_PENDING = 1_048_576
#: A pipe that takes anything takes this much at once (POSIX, ``PIPE_BUF`` of Linux), in bytes.
_CHUNK = 4_096
#: Lines of one kind in a second, as somebody may be able to cause them at will.
MAX_ALIKE = 10
MAX_TEXT = 1_000
MAX_TRACEBACK = 8_000

#: What a job's own lines are marked with, which nobody can cause without having a job done.
JOB_EVENTS = "jobproxy.jobs"

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
#: What Twisted's older log adds to events for its own observers.
_LEGACY = frozenset({"format", "isError", "message", "printed", "system", "time"})

Record = dict[str, Any]


@define(eq=False)
class Outlet:
    """Writes lines to a descriptor, but never waits for whoever takes them.

    The descriptor's own mode is left alone, since others may share it.

    :ivar dropped: how many lines were not written: ``full`` if nobody took them in time, ``failed``
        if they could not be written at all, ``limited`` if there were too many like them.
    """

    _descriptor: int
    dropped: Counter[str] = field(factory=Counter, init=False)
    _pending: deque[bytes] = field(factory=deque, init=False)
    _size: int = field(default=0, init=False)
    #: The same as a socket, if it is one.
    _socket: socket.socket | None = field(default=None, init=False)
    _poll: select.poll = field(factory=select.poll, init=False)

    def __attrs_post_init__(self) -> None:
        if stat.S_ISSOCK(os.fstat(self._descriptor).st_mode):
            self._socket = socket.socket(fileno=os.dup(self._descriptor))
        self._poll.register(self._descriptor, select.POLLOUT)

    def write(self, line: bytes) -> None:
        """Write a line, or keep it to be written later."""
        if self._size + len(line) > MAX_PENDING:
            self.dropped["full"] += 1
        else:
            self._pending.append(line)
            self._size += len(line)
        self.flush()

    def flush(self) -> None:
        """Write as much as is taken at once of what is kept."""
        try:
            while self._pending and self._poll.poll(0):
                line = self._pending[0]
                sent = self._send(line[:_CHUNK])
                self._size -= sent
                if sent == len(line):
                    self._pending.popleft()
                else:
                    self._pending[0] = line[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self.dropped["failed"] += len(self._pending)
            self._pending.clear()
            self._size = 0

    def close(self) -> None:
        """Let go of what was opened; nothing may be written any more."""
        if self._socket is not None:
            self._socket.close()

    def _send(self, data: bytes) -> int:
        """Write some bytes; to be called when there is room for a few."""
        if self._socket is None:
            return os.write(self._descriptor, data)
        return self._socket.send(data, socket.MSG_DONTWAIT)


@define(eq=False)
class _Limit:
    """Lets few events of a kind through in each second."""

    _now: Callable[[], float]
    _second: int = field(default=0, init=False)
    _seen: Counter[tuple[str, str]] = field(factory=Counter, init=False)

    def passes(self, event: LogEvent) -> bool:
        second = int(self._now())
        if second != self._second:
            self._second = second
            self._seen.clear()
        kind = (event.get("log_namespace", ""), event.get("log_format") or "")
        self._seen[kind] += 1
        return self._seen[kind] <= MAX_ALIKE


@implementer(ILogObserver)
@define(eq=False)
class LineObserver:
    """Writes each event as a line of its own, whatever is in it.

    :param write_line: makes the line, without the end, from the fields.
    """

    outlet: Outlet
    _write_line: Callable[[Record], str]
    _now: Callable[[], float] = time.monotonic
    _limit: _Limit = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._limit = _Limit(self._now)

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_namespace") != JOB_EVENTS and not self._limit.passes(event):
            self.outlet.dropped["limited"] += 1
            return
        line = self._write_line(describe(event))
        self.outlet.write(line.encode("utf-8", "backslashreplace") + b"\n")


def describe(event: LogEvent) -> Record:
    """Return an event's time, level, logger and message, and then its own fields."""
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), timezone.utc)
    level = event.get("log_level")
    record: Record = {
        "time": f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z",
        "level": "info" if level is None else level.name,
        "logger": event.get("log_namespace", ""),
        "message": formatEvent(event)[:MAX_TEXT],
    }
    record.update(_read_fields(event))
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        record["traceback"] = failure.getTraceback()[-MAX_TRACEBACK:]
    return record


def _read_fields(event: LogEvent) -> Iterator[tuple[str, Any]]:
    for name, value in event.items():
        if name.startswith("log_") or name in _LEGACY:
            continue
        first, *others = name.split("_")
        is_plain = isinstance(value, bool | int | float | None)
        yield first + "".join(map(str.capitalize, others)), value if is_plain else _cut(value)


def _cut(value: object) -> str:
    return (value if isinstance(value, str) else str(value))[:MAX_TEXT]


def write_json(record: Record) -> str:
    """Return a record as JSON, all of it ASCII."""
    return json.dumps(record)


def write_text(record: Record) -> str:
    """Return a record for people; only a traceback has more lines, and those are indented."""
    traceback = record.get("traceback", "")
    fields = [
        f"{name}={value if re.fullmatch('[!-~]+', str(value)) else json.dumps(value)}"
        for name, value in record.items()
        if name not in {"time", "level", "logger", "message", "traceback"}
    ]
    head = f"{record['time']} {record['level']:8} {record['logger']}: {record['message']}"
    lines = [
        _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), line)
        for line in (" ".join([head, *fields]), *traceback.splitlines())
    ]
    return "\n\t".join(lines)


#: Where the lines of this process go, once one of the two below was called.
_outlet: Outlet | None = None


def json_lines() -> ILogObserver:
    """Return the observer that writes JSON to standard output: for ``twistd --logger``."""
    return _observe(write_json)


def text_lines() -> ILogObserver:
    """Return the observer that writes text to standard output: for ``twistd --logger``."""
    return _observe(write_text)


def _observe(write_line: Callable[[Record], str]) -> ILogObserver:
    global _outlet  # noqa: PLW0603 - like the log itself, it is the process's
    # From now on whatever is printed goes to the log, and so sys.stdout is no longer this.
    _outlet = Outlet(sys.stdout.fileno())
    atexit.register(_outlet.flush)
    return cast(ILogObserver, LineObserver(_outlet, write_line))


def is_on() -> bool:
    """Whether this process writes such lines, so that there is an event for every change."""
    return _outlet is not None


def flush() -> None:
    """Write what nobody took at once; to be called now and then."""
    if _outlet is not None:
        _outlet.flush()


def count_dropped() -> dict[str, int]:
    """Return how many lines were not written, by reason."""
    return {} if _outlet is None else dict(_outlet.dropped)
