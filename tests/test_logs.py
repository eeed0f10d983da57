"""Log lines: what is in them, and that nobody waits for whoever takes them."""

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
    Outlet,
    Record,
    write_json,
    write_text,
)

NASTY = "a\n2026-11-24T00:00:00.000Z info forged\r\x1b[31m\x85\u2028\x00"


class LinesTestCase(SynchronousTestCase):
    """A logger whose lines go to a pipe."""

    def setUp(self) -> None:
        super().setUp()
        self.reading, self.writing = os.pipe()
        self.addCleanup(os.close, self.reading)
        self.addCleanup(os.close, self.writing)
        self.outlet = Outlet(self.writing)
        self.now = 0.0

    def make_logger(self, write_line: Callable[[Record], str], name: str = "jobproxy.x") -> Logger:
        observer: Any = LineObserver(self.outlet, write_line, lambda: self.now)
        assert ILogObserver.providedBy(observer)
        return Logger(name, observer=LogPublisher(observer))

    def read(self) -> bytes:
        """Return what has been written; there has to be something."""
        return os.read(self.reading, 10 * MAX_PENDING)

    def read_records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.read().splitlines()]


class JsonTests(LinesTestCase):
    def test_event(self) -> None:
        """A line has time, level, logger and message, and the event's own fields."""
        log = self.make_logger(write_json)
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

    def test_failure(self) -> None:
        """A traceback is a field, and not lines of its own."""
        log = self.make_logger(write_json)
        log.failure("crashed", Failure(ZeroDivisionError("by what?")))
        (record,) = self.read_records()
        self.assertEqual(record["level"], "critical")
        self.assertIn("ZeroDivisionError: by what?", record["traceback"])

    def test_long(self) -> None:
        """A value has an end."""
        log = self.make_logger(write_json)
        log.info("{x}", x="x" * 100_000)
        self.assertLess(len(self.read()), 10_000)

    @given(st.text(), st.binary())
    def test_one_line(self, text: str, data: bytes) -> None:
        """Whatever is in an event, it is one line of ASCII."""
        self.make_logger(write_json).info("{text} {data}", text=text, data=data, other=text)
        self.now += 1
        lines = self.read().split(b"\n")
        self.assertEqual(lines[1:], [b""])
        self.assertEqual(json.loads(lines[0].decode("ascii"))["other"], text[:1_000])


class TextTests(LinesTestCase):
    def test_event(self) -> None:
        """A line is what happened, and then the fields that have a name."""
        log = self.make_logger(write_text)
        log.info("job {job} is up", job="j", words="two words")
        line = self.read().decode()
        time, rest = line.split(" ", 1)
        self.assertEqual(len(time), 24)
        self.assertEqual(rest, 'info     jobproxy.x: job j is up job=j words="two words"\n')

    def test_nothing_is_forged(self) -> None:
        """A value can neither begin a line nor talk to the terminal."""
        self.make_logger(write_text).info("account {account}", account=NASTY)
        text = self.read().decode()
        self.assertEqual(len(text.splitlines()), 1)
        self.assertNotIn("\x1b", text)
        self.assertIn(r"\x1b[31m", text)

    def test_failure(self) -> None:
        """A traceback is indented, so that it is not taken for lines of the log."""
        self.make_logger(write_text).failure("crashed", Failure(ValueError(NASTY)))
        first, *others = self.read().decode().split("\n")
        self.assertIn("crashed", first)
        self.assertGreater(len(others), 1)
        self.assertEqual([line for line in others[:-1] if not line.startswith("\t")], [])


class FullTests(LinesTestCase):
    """L7: nobody takes the lines."""

    def test_waits_for_nobody(self) -> None:
        """L7: lines that a full pipe does not take are kept, then dropped and counted."""
        line = b"x" * 999 + b"\n"
        number = 2 * MAX_PENDING // len(line)
        for _ in range(number):
            self.outlet.write(line)
        self.assertGreater(self.outlet.dropped["full"], 0)
        taken = 0
        while taken < (number - self.outlet.dropped["full"]) * len(line):
            data = self.read()
            taken += len(data)
            self.assertEqual(set(data), set(line))
            self.outlet.flush()
        self.assertEqual(taken, (number - self.outlet.dropped["full"]) * len(line))

    def test_goes_on(self) -> None:
        """L7: once somebody takes lines again, what was kept comes, and then what is new."""
        while not self.outlet.dropped["full"]:
            self.outlet.write(b"filler\n")
        data = b""
        self.outlet.write(b"lost!!\n")
        while len(data) < MAX_PENDING // 7 * 7:
            data += self.read()
            self.outlet.flush()
        self.outlet.write(b"fresh!\n")
        data += self.read()
        lines = data.splitlines()
        self.assertEqual(lines.pop(), b"fresh!")
        self.assertEqual(set(lines), {b"filler"})

    def test_nobody_there(self) -> None:
        """L7: lines are dropped and counted when the other end of the pipe is closed."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, writing)
        os.close(reading)
        outlet = Outlet(writing)
        outlet.write(b"one\n")
        outlet.write(b"two\n")
        self.assertEqual(outlet.dropped, {"failed": 2})

    def test_socket(self) -> None:
        """L7: a socket, which systemd's journal is, is not waited for either."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        outlet = Outlet(ours.fileno())
        self.addCleanup(outlet.close)
        while not outlet.dropped["full"]:
            outlet.write(b"y" * 99_999 + b"\n")
        self.assertEqual(theirs.recv(10), b"y" * 10)


class FloodTests(LinesTestCase):
    def test_limit(self) -> None:
        """Of events of one kind, only some in a second are written; the others are counted."""
        log = self.make_logger(write_json)
        for number in range(1_000):
            log.warn("somebody did {number}", number=number)
        log.warn("somebody did something else")
        self.assertEqual(len(self.read_records()), MAX_ALIKE + 1)
        self.assertEqual(self.outlet.dropped, {"limited": 1_000 - MAX_ALIKE})
        self.now = 1.0
        log.warn("somebody did {number}", number=-1)
        self.assertEqual(self.read_records()[0]["number"], -1)

    def test_jobs(self) -> None:
        """Every job has its lines."""
        log = self.make_logger(write_json, "jobproxy.jobs")
        for number in range(100):
            log.info("job {job} is queued", job=str(number))
        self.assertEqual(len(self.read_records()), 100)
