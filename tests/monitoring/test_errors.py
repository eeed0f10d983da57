"""Errors by type: how many, since when, and which section of the runbook."""

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.monitoring.errors import Errors
from jobproxy.monitoring.reasons import Reason
from jobproxy.monitoring.runbook import read_runbook, split_sections
from jobproxy.wire.problems import Kind


class ErrorsTests(SynchronousTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.errors = Errors()

    def read(self, now: float) -> dict[str, Any]:
        (found,) = self.errors.describe(now)
        return found

    def test_errors_of_a_type_are_counted_by_minute_and_hour(self) -> None:
        """Each type has its counts of the last minute and hour, and its first and last time."""
        for second in range(0, 7_200, 10):
            self.errors.add("client", 504, "wait-over", b"id-%d" % second, float(second))
        found = self.read(7_195.0)
        self.assertEqual(found["total"], 720)
        self.assertIn(found["minute"], (6, 7))
        self.assertIn(found["hour"], (360, 361))
        self.assertEqual((found["first"], found["last"]), (0.0, 7_190.0))
        self.assertEqual((found["status"], found["requestId"]), (504, "id-7190"))
        self.assertEqual(found["runbook"], "JobproxyTimeouts")

    def test_errors_of_long_ago_count_only_in_all(self) -> None:
        """After an hour an error is neither of the last minute nor of the last hour."""
        self.errors.add("client", 503, "overloaded", b"1", 100.0)
        self.assertEqual([self.read(150.0)[name] for name in ("minute", "hour")], [1, 1])
        self.assertEqual([self.read(200.0)[name] for name in ("minute", "hour")], [0, 1])
        found = self.read(4_000.0)
        self.assertEqual([found[name] for name in ("minute", "hour", "total")], [0, 0, 1])

    def test_types_and_sides_are_kept_apart_the_last_first(self) -> None:
        """The same type to another side is another line; the one that came last is first."""
        self.errors.add("client", 404, "not-found", b"1", 1.0)
        self.errors.add("callback", 404, "not-found", b"2", 2.0)
        self.errors.add("", 400, "malformed-request", b"3", 3.0)
        found = [(each["side"], each["type"]) for each in self.errors.describe(4.0)]
        expected = [("", "malformed-request"), ("callback", "not-found"), ("client", "not-found")]
        self.assertEqual(found, expected)

    def test_every_error_of_ours_has_a_section_that_exists(self) -> None:
        """Each problem but those of the client has a section of the runbook; so has a reason."""
        sections = split_sections(read_runbook())
        for kind in Kind:
            self.errors.add("client", kind.status, kind.slug, b"1", 1.0)
        for found in self.errors.describe(1.0):
            is_ours = found["status"] >= 500 and found["type"] not in {
                Kind.NOT_IMPLEMENTED.slug,
                Kind.VERSION_NOT_SUPPORTED.slug,
            }
            if is_ours or found["runbook"] is not None:
                self.assertIn(found["runbook"], sections, found)
        for reason in Reason:
            self.assertIn(reason.section, sections)
