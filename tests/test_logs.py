"""Log observers: what is in a line, and that a reader that does not read blocks nothing."""

import json
import os
import socket
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import ILogObserver, Logger, LogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.logs import (
    MAX_ALIKE,
    MAX_PENDING,
    LineObserver,
    LineWriter,
    Record,
    format_json,
    format_text,
    is_journal,
)

NASTY = "a\n2026-11-24T00:00:00.000Z info forged\r\x1b[31m\x85\u2028\x00"


class LinesTestCase(SynchronousTestCase):
    """A logger whose lines are written to a pipe."""

    has_priorities = False

    def setUp(self) -> None:
        super().setUp()
        self.reading, self.writing = os.pipe()
        self.addCleanup(os.close, self.reading)
        self.addCleanup(os.close, self.writing)
        self.writer = LineWriter(self.writing)
        self.now = 0.0

    def make_logger(self, format_line: Callable[[Record], str], name: str = "jobproxy.x") -> Logger:
        observer: Any = LineObserver(
            self.writer, format_line, self.has_priorities, lambda: self.now
        )
        assert ILogObserver.providedBy(observer)
        return Logger(name, observer=LogPublisher(observer))

    def read(self) -> bytes:
        """Return what has been written since the last call; there must be something."""
        return os.read(self.reading, 10 * MAX_PENDING)

    def read_records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read().splitlines()]


class JsonTests(LinesTestCase):
    def test_json_line_has_the_fields_of_the_event(self) -> None:
        """A line has time, level, logger and message, and the event's own fields."""
        log = self.make_logger(format_json)
        log.warn("job {job} is {state}", job="j", state="late", request_id="r", count=3, id=None)
        (record,) = self.read_records()
        self.assertRegex(record.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        self.assertEqual(
            record,
            {
                "level": "warn",
                "logger": "jobproxy.x",
                "message": "job j is late",
                "job": "j",
                "state": "late",
                "requestId": "r",
                "count": 3,
                "id": None,
            },
        )

    def test_traceback_is_a_field(self) -> None:
        """A traceback is a field, not lines of its own."""
        log = self.make_logger(format_json)
        log.failure("crashed", Failure(ZeroDivisionError("by what?")))
        (record,) = self.read_records()
        self.assertEqual(record["level"], "critical")
        self.assertIn("ZeroDivisionError: by what?", record["traceback"])

    def test_long_value_is_cut(self) -> None:
        """A long value is cut."""
        log = self.make_logger(format_json)
        log.info("{x}", x="x" * 100_000)
        self.assertLess(len(self.read()), 10_000)

    @given(st.text(), st.binary())
    def test_any_event_is_one_line_of_ascii(self, text: str, data: bytes) -> None:
        """Whatever is in an event, it is one line of ASCII."""
        self.make_logger(format_json).info("{text} {data}", text=text, data=data, other=text)
        self.now += 1
        lines = self.read().split(b"\n")
        self.assertEqual(lines[1:], [b""])
        self.assertEqual(json.loads(lines[0].decode("ascii"))["other"], text[:1_000])


class TextTests(LinesTestCase):
    def test_text_line_has_the_message_and_the_fields(self) -> None:
        """A line is the message, then the fields by name."""
        log = self.make_logger(format_text)
        log.info("job {job} is up", job="j", words="two words")
        line = self.read().decode()
        time, rest = line.split(" ", 1)
        self.assertEqual(len(time), 24)
        self.assertEqual(rest, 'info     jobproxy.x: job j is up job=j words="two words"\n')

    def test_control_characters_are_escaped(self) -> None:
        """A value can neither begin a line nor send control characters to the terminal."""
        self.make_logger(format_text).info("account {account}", account=NASTY)
        text = self.read().decode()
        self.assertEqual(len(text.splitlines()), 1)
        self.assertNotIn("\x1b", text)
        self.assertIn(r"\x1b[31m", text)

    def test_traceback_is_indented(self) -> None:
        """A traceback is indented, so that it cannot be mistaken for other lines."""
        self.make_logger(format_text).failure("crashed", Failure(ValueError(NASTY)))
        first, *others = self.read().decode().split("\n")
        self.assertIn("crashed", first)
        self.assertGreater(len(others), 1)
        self.assertEqual([line for line in others[:-1] if not line.startswith("\t")], [])


class JournalTests(LinesTestCase):
    """Lines for systemd's journal."""

    has_priorities = True

    def test_line_begins_with_its_priority(self) -> None:
        """Each line of a traceback, too; see sd-daemon(3)."""
        log = self.make_logger(format_text)
        levels = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}
        for level, priority in levels.items():
            getattr(log, level)("hello")
            self.assertTrue(self.read().startswith(b"<%d>2" % priority))
        log.failure("it failed", Failure(ValueError("a bug")))
        lines = self.read().splitlines()
        self.assertGreater(len(lines), 1)
        self.assertEqual({line[:3] for line in lines}, {b"<2>"})

    def test_descriptor_of_the_journal_is_recognized(self) -> None:
        """By what systemd says in ``JOURNAL_STREAM``, and by nothing else."""
        found = os.fstat(self.writing)
        stream = f"{found.st_dev}:{found.st_ino}"
        self.assertTrue(is_journal(self.writing, {"JOURNAL_STREAM": stream}))
        for other in ({}, {"JOURNAL_STREAM": f"{stream}0"}, {"JOURNAL_STREAM": ""}):
            self.assertFalse(is_journal(self.writing, other))


class FullTests(LinesTestCase):
    """L7: nobody reads the lines."""

    def test_full_pipe_does_not_block(self) -> None:
        """L7: lines for a full pipe are buffered, then dropped and counted."""
        line = b"x" * 999 + b"\n"
        number = 2 * MAX_PENDING // len(line)
        for _ in range(number):
            self.writer.write(line)
        self.assertGreater(self.writer.dropped["full"], 0)
        taken = 0
        while taken < (number - self.writer.dropped["full"]) * len(line):
            data = self.read()
            taken += len(data)
            self.assertEqual(set(data), set(line))
            self.writer.flush()
        self.assertEqual(taken, (number - self.writer.dropped["full"]) * len(line))

    def test_buffered_lines_are_written_first(self) -> None:
        """L7: once the reader reads again, buffered lines are written before new ones."""
        while not self.writer.dropped["full"]:
            self.writer.write(b"filler\n")
        data = b""
        self.writer.write(b"lost!!\n")
        while len(data) < MAX_PENDING // 7 * 7:
            data += self.read()
            self.writer.flush()
        self.writer.write(b"fresh!\n")
        data += self.read()
        lines = data.splitlines()
        self.assertEqual(lines.pop(), b"fresh!")
        self.assertEqual(set(lines), {b"filler"})

    def test_lines_for_a_closed_pipe_are_dropped(self) -> None:
        """L7: lines are dropped and counted when the other end of the pipe is closed."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        os.close(reading)
        writer = LineWriter(writing)
        writer.write(b"one\n")
        writer.write(b"two\n")
        self.assertEqual(writer.dropped, {"failed": 2})

    def test_full_socket_does_not_block(self) -> None:
        """L7: a full socket, as that of systemd's journal, does not block either."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        writer = LineWriter(ours.fileno())
        self.addCleanup(writer.close)
        while not writer.dropped["full"]:
            writer.write(b"y" * 99_999 + b"\n")
        self.assertEqual(theirs.recv(10), b"y" * 10)


class FloodTests(LinesTestCase):
    def test_events_of_one_kind_are_limited(self) -> None:
        """Of events of one kind only some per second are written; the others are counted."""
        log = self.make_logger(format_json)
        for number in range(1_000):
            log.warn("somebody did {number}", number=number)
        log.warn("somebody did something else")
        self.assertEqual(len(self.read_records()), MAX_ALIKE + 1)
        self.assertEqual(self.writer.dropped, {"limited": 1_000 - MAX_ALIKE})
        self.now = 1.0
        log.warn("somebody did {number}", number=-1)
        self.assertEqual(self.read_records()[0]["number"], -1)

    def test_job_events_are_not_limited(self) -> None:
        """Job events are not limited."""
        log = self.make_logger(format_json, "jobproxy.jobs")
        for number in range(100):
            log.info("job {job} is queued", job=str(number))
        self.assertEqual(len(self.read_records()), 100)
