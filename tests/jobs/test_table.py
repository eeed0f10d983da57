"""The correlation table: the records of jobs, and what ends a job."""

import gc

from jobproxy.jobs.states import State
from jobproxy.wire.problems import Kind, Problem
from tests.support.proxy import ProxyTestCase, result_of
from tests.support.table import ACK, BUG, RESULT, RETAIN, TableTestCase

DRAINING = Problem(Kind.DRAINING, "soon over")


class GarbageTests(TableTestCase):
    def test_ended_jobs_leave_no_garbage(self) -> None:
        """An ended job, however it ended, leaves nothing for the cyclic garbage collector."""

        def end_jobs() -> None:
            for number in range(10):
                self.hold(f"result {number}")
                self.table.complete(f"result {number}", RESULT)
                record, client = self.hold(f"problem {number}")
                self.table.fail(record, BUG)
                self.failureResultOf(client)
                _, client = self.hold(f"left {number}")
                client.addErrback(lambda _: None)
                client.cancel()

        end_jobs()
        self.table.stopService()
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        end_jobs()
        self.assertEqual(gc.collect(), 0)


class RecordTests(TableTestCase):
    """Records from their creation to their end."""

    def test_job_with_a_result_does_not_fail(self) -> None:
        """A job that has a result does not fail any more."""
        record, waiting = self.hold()
        self.table.complete("a", RESULT)
        self.table.fail(record, BUG)
        self.assertIs(self.successResultOf(waiting).result, RESULT)
        self.assertIsNone(record.problem)

    def test_forgotten_job_that_fails_leaves_nothing(self) -> None:
        """A start that fails after its job was forgotten leaves nothing behind."""
        record, waiting = self.hold()
        self.table.send(record)
        self.table.startService()
        self.table.stopService()
        self.problem_of(waiting, Kind.DRAINING)
        self.table.fail(record, BUG)
        self.assertEqual((len(self.table), self.table.retention.retained), (0, 0))
        self.assertIsNone(self.table.find("a"))

    def test_drain_ends_only_queued_jobs(self) -> None:
        """G1: only jobs that have not been started end when the proxy drains."""
        _, queued = self.hold("a")
        record, started = self.hold("b")
        self.table.send(record)
        self.table.fail_queued(DRAINING)
        self.problem_of(queued, Kind.DRAINING)
        self.assertNoResult(started)
        self.assertEqual(self.cancelled, ["a"])
        self.table.complete("b", RESULT)
        self.successResultOf(started)

    def test_retracted_start_restores_the_earlier_state(self) -> None:
        """S17: a start request that was refused leaves the job in its earlier state."""
        record, waiting = self.hold()
        found: list[str] = []
        for state in (State.UNCONFIRMED, State.RUNNING, None):
            self.table.send(record)
            self.table.retract(record, lambda: found.append("cancelled"))
            found.append(f"{record.state.word} {record.started}")
            if state is not None:
                self.table.send(record)
                if state is State.RUNNING:
                    self.table.acknowledge(record, ACK)
                else:
                    self.table.doubt(record)
        self.assertEqual(found, ["queued no", "unconfirmed unknown", "running yes"])
        self.table.complete("a", RESULT)
        self.successResultOf(waiting)
        self.assertEqual(found[3:], ["cancelled"])
        self.table.retract(record, lambda: None)
        self.assertIs(record.state, State.COMPLETED)

    def test_job_id_in_use_is_refused(self) -> None:
        """A second job with the same job id is refused, and the first one stays."""
        record, waiting = self.hold()
        with self.assertRaises(ValueError):
            self.create()
        self.table.complete("a", RESULT)
        self.assertIs(self.successResultOf(waiting), record)

    def test_stop_says_of_each_job_whether_it_was_started(self) -> None:
        """G1: the problem at the stop says whether the job was started; queued starts end."""
        states = (None, State.STARTING, State.RUNNING)
        waiting = []
        for job_id, state in zip("abc", states, strict=True):
            record, client = self.hold(job_id)
            waiting.append(client)
            if state is not None:
                self.table.send(record)
            if state is State.RUNNING:
                self.table.acknowledge(record, ACK)
        self.table.startService()
        self.table.stopService()
        problems = [self.problem_of(each, Kind.DRAINING) for each in waiting]
        self.assertEqual([problem.started for problem in problems], ["no", "unknown", "yes"])
        self.assertEqual([problem.job_id for problem in problems], ["a", "b", "c"])
        self.assertEqual(self.cancelled, ["a"])
        self.assertFalse(self.table.running)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_key_digest_finds_its_latest_job(self) -> None:
        """A key digest finds its job until that is forgotten or another job gets the digest."""
        first, waiting = self.hold("a", key_digest=b"key", request_digest=b"print")
        self.assertIs(self.table.keys.find(b"key"), first)
        self.assertEqual(first.request_digest, b"print")
        second, other = self.hold("b", key_digest=b"key")
        waiting.cancel()
        self.failureResultOf(waiting)
        self.assertIs(self.table.keys.find(b"key"), second)
        self.table.complete("b", RESULT)
        self.successResultOf(other)
        self.assertIs(self.table.keys.find(b"key"), second)
        self.clock.advance(RETAIN)
        self.assertIsNone(self.table.keys.find(b"key"))


class DurationTests(ProxyTestCase):
    """The durations of jobs, as the operator sees them."""

    def read_durations(self) -> list[str]:
        """Return how many durations were observed, and the sum of their seconds."""
        text = self.operate().get("/metrics").response.body.decode()
        samples = dict(line.rsplit(" ", 1) for line in text.splitlines())
        return [samples[f"jobproxy_job_seconds_{what}"] for what in ("count", "sum")]

    def test_duration_of_a_job_ends_with_its_result(self) -> None:
        """B9: the duration of a job is from its request to its result."""
        for _ in range(2):
            self.clock.advance(4)
            self.submit()
            self.clock.advance(0.5)
            self.starts[-1].respond(result_of("1", "failed"))
        self.assertEqual(self.read_durations(), ["2.0", "1.0"])

    def test_refused_and_unknown_jobs_have_no_duration(self) -> None:
        """S15, B3: neither a refused job nor the result of an unknown job has a duration."""
        self.submit()
        self.starts[0].respond(b"", 422)
        token = self.signer.mint().text
        late = self.connect().request(f"/callback/{token}", result_of("1")).response
        self.assertEqual((late.status, late.json), (200, {"status": "late"}))
        self.assertEqual(self.read_durations(), ["0.0", "0.0"])
