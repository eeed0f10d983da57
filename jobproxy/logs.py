"""Log observers for ``twistd --logger``, which write JSON or text lines without blocking.

A reader that does not read, or a full disk, must not stop the reactor: lines that cannot be written
at once are buffered up to a bound, and then dropped and counted.
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
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from twisted.logger import ILogObserver, LogEvent, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

#: The maximum of bytes that are buffered.
MAX_PENDING = 1_048_576
#: Bytes that a writable pipe accepts in one write (POSIX; ``PIPE_BUF`` of Linux).
_CHUNK = 4_096
#: The maximum of lines of one kind per second, as clients may be able to cause them.
MAX_ALIKE = 10
#: Characters of a value or message, and of a traceback, at most.
MAX_TEXT = 1_000
MAX_TRACEBACK = 8_000

#: The logger of job events. Their number is bounded by that of jobs, so they are not limited.
JOB_EVENTS = "jobproxy.jobs"

#: Why lines are dropped: the buffer was full, writing failed, or there were too many of their kind.
DROP_REASONS = ("full", "failed", "limited")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
#: Fields that Twisted's legacy log adds to events for its own observers.
_LEGACY = frozenset({"format", "isError", "message", "printed", "system", "time"})

#: The priority of each level, as journald reads it at the begin of a line (sd-daemon(3)).
_PRIORITIES = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}

Record = dict[str, Any]


@define(eq=False)
class LineWriter:
    """Writes lines to a file descriptor without blocking.

    The descriptor stays in blocking mode, since other processes may share it.

    :ivar dropped: the numbers of lines that were dropped, by :data:`DROP_REASONS`.
    """

    _descriptor: int
    dropped: Counter[str] = field(factory=Counter, init=False)
    _pending: deque[bytes] = field(factory=deque, init=False)
    _size: int = field(default=0, init=False)
    #: Of the file, if the descriptor is that of one.
    _path: str | None = field(default=None, init=False)
    #: A duplicate of the descriptor, if it is a socket.
    _socket: socket.socket | None = field(default=None, init=False)
    _poll: select.poll = field(factory=select.poll, init=False)

    def __attrs_post_init__(self) -> None:
        if stat.S_ISSOCK(os.fstat(self._descriptor).st_mode):
            self._socket = socket.socket(fileno=os.dup(self._descriptor))
        elif stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self._path = str(Path(f"/proc/self/fd/{self._descriptor}").readlink())
        self._poll.register(self._descriptor, select.POLLOUT)

    def write(self, line: bytes) -> None:
        """Write a line, or buffer it until :meth:`flush`."""
        if self._size + len(line) > MAX_PENDING:
            self.dropped["full"] += 1
        else:
            self._pending.append(line)
            self._size += len(line)
        self.flush()

    def flush(self) -> None:
        """Write as much of the buffer as the descriptor accepts now."""
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

    def reopen(self) -> None:
        """Write to the file of this name from now on: it may have been renamed since it was opened.

        Nothing happens if the descriptor is not that of a file.

        :raises OSError: if there can be no file of this name; then the old one is written to.
        """
        self.flush()
        if self._path is None:
            return
        old = os.fstat(self._descriptor)
        new = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            # Standard error is often the same file.
            for descriptor in {self._descriptor, 2}:
                if os.path.samestat(os.fstat(descriptor), old):
                    os.dup2(new, descriptor)
        finally:
            os.close(new)

    def close(self) -> None:
        """Close the duplicate; nothing may be written afterwards."""
        if self._socket is not None:
            self._socket.close()

    def _send(self, data: bytes) -> int:
        """Write some bytes to a descriptor that is writable, and return how many."""
        if self._socket is None:
            return os.write(self._descriptor, data)
        return self._socket.send(data, socket.MSG_DONTWAIT)


@define(eq=False)
class _RateLimit:
    """Limits the events of one kind per second."""

    _now: Callable[[], float]
    _second: int = field(default=0, init=False)
    _seen: Counter[tuple[str, str]] = field(factory=Counter, init=False)

    def allows(self, event: LogEvent) -> bool:
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
    """Writes each event as one line.

    :param format_line: returns the line, without its end, for a record.
    :param has_priorities: whether each line begins with its priority, for journald.
    """

    writer: LineWriter
    _format_line: Callable[[Record], str]
    _has_priorities: bool = False
    _now: Callable[[], float] = time.monotonic
    _limit: _RateLimit = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._limit = _RateLimit(self._now)

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_namespace") != JOB_EVENTS and not self._limit.allows(event):
            self.writer.dropped["limited"] += 1
            return
        record = make_record(event)
        line = self._format_line(record)
        if self._has_priorities:
            mark = f"<{_PRIORITIES[record['level']]}>"
            line = mark + line.replace("\n", f"\n{mark}")
        self.writer.write(line.encode("utf-8", "backslashreplace") + b"\n")


def make_record(event: LogEvent) -> Record:
    """Return the time, level, logger and message of an event, then its own fields."""
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


def format_json(record: Record) -> str:
    """Return a record as JSON in ASCII."""
    return json.dumps(record)


def format_text(record: Record) -> str:
    """Return a record as text in one line; the lines of a traceback follow it, indented."""
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


#: The writer of this process, once one of the two functions below was called.
_writer: LineWriter | None = None


def json_lines() -> ILogObserver:
    """Return an observer that writes JSON to standard output, for ``twistd --logger``."""
    return _observe(format_json)


def text_lines() -> ILogObserver:
    """Return an observer that writes text to standard output, for ``twistd --logger``."""
    return _observe(format_text)


def _observe(format_line: Callable[[Record], str]) -> ILogObserver:
    global _writer  # noqa: PLW0603 - one per process, like Twisted's log
    # Twisted replaces sys.stdout by its log from now on, so keep the descriptor.
    descriptor = sys.stdout.fileno()
    _writer = LineWriter(descriptor)
    atexit.register(_writer.flush)
    observer = LineObserver(_writer, format_line, is_journal(descriptor, os.environ))
    return cast(ILogObserver, observer)


def is_journal(descriptor: int, environment: Mapping[str, str]) -> bool:
    """Whether a descriptor is that of systemd's journal (``JOURNAL_STREAM``, systemd.exec(5))."""
    found = os.fstat(descriptor)
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def is_on() -> bool:
    """Return whether one of these observers is in use, so that job events are worth logging."""
    return _writer is not None


def flush() -> None:
    """Write buffered lines; must be called at intervals."""
    if _writer is not None:
        _writer.flush()


def reopen() -> None:
    """Write to the file of the same name, after the old one was renamed; see the writer."""
    if _writer is not None:
        _writer.reopen()


def count_dropped() -> dict[str, int]:
    """Return the numbers of dropped lines by reason."""
    return {} if _writer is None else dict(_writer.dropped)
