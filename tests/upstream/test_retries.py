"""Which starts are sent again, when, and how often, in memory."""

import errno
from collections.abc import Sequence
from typing import Any

from attrs import define, field
from OpenSSL.SSL import Error as TLSError
from twisted.internet import error
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseNeverReceived
from twisted.web.iweb import IAgent
from zope.interface import implementer

from jobproxy.http1.client import PlainClient
from jobproxy.upstream.retries import Retry
from tests.support.proxy import Client, ProxyTestCase, Start, result_of

REFUSED = error.ConnectionRefusedError()
LOST = ResponseNeverReceived([Failure(error.ConnectionLost())])
UNTRUSTED = RequestTransmissionFailed([Failure(TLSError())])
NO_SOCKET = error.ConnectError(osError=errno.EMFILE)

#: How a start call can end: with an error, or with a status and a body.
Outcome = Exception | tuple[int, bytes]

SUCCESS: Outcome = (200, result_of("1"))
NOT_READ: Sequence[Outcome] = (
    REFUSED,
    error.DNSLookupError(),
    error.TimeoutError(),
    (429, b""),
    (503, b""),
)
AMBIGUOUS: Sequence[Outcome] = (LOST, (500, b""), (502, b""), (200, b"<html>"), (200, b"[" * 99))
FINAL: Sequence[Outcome] = (
    UNTRUSTED,
    NO_SOCKET,
    *((status, b"") for status in (400, 401, 403, 404, 409, 410, 422, 301, 303, 307)),
)


@implementer(IAgent)
@define(eq=False)
class Line:
    """The way to the job server: some calls fail on it, and the times of all are noted."""

    _agent: Any
    _clock: Clock
    failures: list[Exception | None] = field(factory=list, init=False)
    times: list[float] = field(factory=list, init=False)

    @property
    def calls(self) -> int:
        return len(self.times)

    def request(self, *args: Any, **kwargs: Any) -> Deferred[Any]:
        self.times.append(round(self._clock.seconds(), 3))
        failure = self.failures.pop(0) if self.failures else None
        return self._agent.request(*args, **kwargs) if failure is None else fail(failure)


class RetryTestCase(ProxyTestCase):
    """A proxy whose start calls end as a test says."""

    def setUp(self) -> None:
        super().setUp()
        self.line = Line(self.job_server.agent, self.clock)
        self.upstream._treq = PlainClient(self.line)

    def step(self) -> None:
        """Go on to the time at which something is to happen next."""
        next_time = min(call.getTime() for call in self.clock.getDelayedCalls())
        self.clock.advance(next_time - self.clock.seconds())

    def play(self, *outcomes: Outcome, headers: dict[str, str] | None = None) -> Client:
        """Have a client send a job, and its start calls end like this, one after the other.

        What is to end later, or not at all, has to be the last one.
        """
        calls, answered = self.line.calls, len(self.starts)
        self.line.failures = [o if isinstance(o, Exception) else None for o in outcomes]
        client = self.connect().request(headers=headers)
        for number, outcome in enumerate(outcomes):
            while self.line.calls - calls <= number:
                self.assertTrue(client.is_held, f"{number} calls")
                self.step()
            if not isinstance(outcome, Exception):
                status, body = outcome
                self.starts[answered].respond(body, status)
                answered += 1
        return client

    def count(self, outcome: Outcome) -> int:
        """Return how many start calls one job has that all end in the same way."""
        calls = self.line.calls
        client = self.connect()
        answered = len(self.starts)
        self.line.failures = [outcome if isinstance(outcome, Exception) else None] * 9
        client.request()
        while client.is_held:
            for start in self.starts[answered:]:
                assert not isinstance(outcome, Exception)
                start.respond(outcome[1], outcome[0])
            answered = len(self.starts)
            self.step()
        self.clock.advance(10)
        counted = self.line.calls - calls
        # Somebody is answered, so that the circuit does not open over many tries in one test.
        self.assertEqual(self.play(SUCCESS).response.status, 200)
        return counted


class NeverTests(RetryTestCase):
    """Without retries."""

    options: dict[str, Any] = {"retry": Retry.NEVER}
    not_read = 1
    ambiguous = 1

    def test_not_read(self) -> None:
        """S1, S2, S3, S17: how often a start is made that was not sent, or not read."""
        for outcome in NOT_READ:
            self.assertEqual(self.count(outcome), self.not_read, outcome)

    def test_ambiguous(self) -> None:
        """S6, S9, S10, S11, S18: how often a start is made that may have been read."""
        for outcome in AMBIGUOUS:
            self.assertEqual(self.count(outcome), self.ambiguous, outcome)

    def test_no_ack(self) -> None:
        """S8: how often a start is made to which no ack comes."""
        client = self.submit()
        while client.is_held:
            self.step()
        self.assertEqual(len(self.starts), self.ambiguous)

    def test_final(self) -> None:
        """S4, S5, S15, S16, S19: a start that would only fail again is not made again."""
        for outcome in FINAL:
            self.assertEqual(self.count(outcome), 1, outcome)


class NotSentTests(NeverTests):
    """At most once."""

    options = {"retry": Retry.NOT_SENT}
    not_read = 3


class AlwaysTests(NotSentTests):
    """At least once."""

    options = {"retry": Retry.ALWAYS, "wait": 60.0}
    ambiguous = 3


class FewAttemptsTests(NotSentTests):
    """With a number of attempts of one's own."""

    options = {"retry": Retry.ALWAYS, "attempts": 2, "wait": 60.0}
    not_read = 2
    ambiguous = 2


class PauseTests(RetryTestCase):
    """How long it takes until a start is made again."""

    options = {"attempts": 9}

    def test_grow(self) -> None:
        """S1: the pauses double, up to five seconds."""
        client = self.play(*[REFUSED] * 9)
        self.assertEqual(self.line.times, [0.0, 0.2, 0.6, 1.4, 3.0, 6.2, 11.2, 16.2, 21.2])
        self.assert_problem(client.response, 503, "upstream-unreachable")

    def test_have_full_jitter(self) -> None:
        """S1: a pause may be as short as nothing, so that what failed together is spread."""
        self.patch(self.random, "uniform", lambda a, b: a)
        client = self.play(*[REFUSED] * 9)
        self.assertEqual(self.line.times, [0.0] * 9)
        self.assert_problem(client.response, 503, "upstream-unreachable")

    def test_end_before_the_deadline(self) -> None:
        """S1: a pause that the client will not see the end of is not begun."""
        client = self.play(REFUSED, REFUSED, REFUSED, headers={"Prefer": "wait=1"})
        self.assert_problem(client.response, 503, "upstream-unreachable")
        self.clock.advance(5)
        self.assertEqual(self.line.times, [0.0, 0.2, 0.6])

    def test_success(self) -> None:
        """S1, S17: a start that is accepted in the end is a start like any other."""
        client = self.play(REFUSED, (429, b""), (503, b""), (202, b'{"id":"1"}'))
        self.call_back(self.starts[2], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.assertEqual(len({start.raw for start in self.starts}), 1)

    def test_leave_the_lane_to_others(self) -> None:
        """S1: while a start rests, the others of its account go on."""
        rests = [self.play(REFUSED), self.play(REFUSED)]
        self.assertEqual(self.play(SUCCESS).response.status, 200)
        self.clock.advance(0.2)
        for start in self.starts[1:]:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in rests], [200, 200])

    def test_client_leaves(self) -> None:
        """S1, Q15: when the client leaves between two attempts, nothing more is sent."""
        client = self.play(REFUSED, (503, b""))
        client.leave()
        self.assertEqual(len(self.table), 0)
        self.clock.advance(60)
        self.assertEqual(self.line.calls, 2)


class DoubtTests(RetryTestCase):
    """Starts that may have been read, and are made again."""

    options = {"retry": Retry.ALWAYS}

    def check_unknown(self, *outcomes: Outcome) -> None:
        """Check that a client is told after the grace that its job may run."""
        client = self.play(*outcomes)
        self.clock.advance(1.9)
        self.assertTrue(client.is_held)
        self.clock.advance(0.2)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        calls = self.line.calls
        self.clock.advance(60)
        self.assertEqual(self.line.calls, calls)

    def begin_again(self) -> tuple[Client, Start, Start]:
        """Return a client and the two starts of its job: one is ambiguous, one under way."""
        client = self.play((500, b""), LOST)
        self.clock.advance(0.4)
        first, second = self.starts
        return client, first, second

    def test_second_works(self) -> None:
        """S6, S18: the start that is acknowledged is the one that counts."""
        client, first, second = self.begin_again()
        self.assertEqual(first.raw, second.raw)
        second.ack("2")
        self.clock.advance(25)
        self.assertTrue(client.is_held)
        self.call_back(second, result_of("2"))
        self.assertEqual(client.response.body, result_of("2"))

    def test_first_has_worked(self) -> None:
        """S6: a callback of the first start is the answer while the second is under way."""
        client, first, second = self.begin_again()
        self.assertEqual(self.call_back(first, result_of("1")).json, {"status": "accepted"})
        self.assertEqual(client.response.body, result_of("1"))
        second.ack("2")
        again = self.call_back(second, result_of("2"))
        self.assertEqual((again.status, again.json), (200, {"status": "duplicate"}))
        self.assertEqual(len(client.responses), 1)

    def test_second_fails_after_the_first_has_worked(self) -> None:
        """S6: a start that fails when its job has ended is not made again."""
        client, first, second = self.begin_again()
        self.call_back(first, result_of("1"))
        second.respond(b"", 503)
        self.clock.advance(60)
        self.assertEqual(len(self.starts), 2)
        self.assertEqual(client.response.status, 200)

    def test_first_ends_after_the_second_ack(self) -> None:
        """B8: a callback with the id of the first start is no conflict with the second's ack."""
        client, first, second = self.begin_again()
        second.ack("2")
        self.assertEqual(self.call_back(first, result_of("1")).json, {"status": "accepted"})
        self.assertEqual(client.response.body, result_of("1"))

    def test_ends_between_attempts(self) -> None:
        """S6: a callback between two attempts is the answer, and nothing more is sent."""
        client = self.play((500, b""))
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.clock.advance(60)
        self.assertEqual(self.line.calls, 1)

    def test_ends_between_attempts_of_nobody(self) -> None:
        """S6, Q3: so it is with a job whose client has been told to come back for the result."""
        client = self.connect().request(headers={"Prefer": "respond-async, wait=1"})
        self.clock.advance(1)
        self.assertEqual(client.response.status, 202)
        self.starts[0].respond(b"", 500)
        self.call_back(self.starts[0], result_of("1"))
        self.clock.advance(60)
        self.assertEqual(self.line.calls, 1)

    def test_client_leaves(self) -> None:
        """Q16: when the client leaves between two attempts, nothing more is sent."""
        self.play((500, b"")).leave()
        self.clock.advance(60)
        self.assertEqual(self.line.calls, 1)
        self.assertEqual(len(self.table), 1)

    def test_all_fail(self) -> None:
        """S6: when no attempt is left, the callback is waited for as long as ever."""
        self.check_unknown(LOST, (500, b""), (200, b"<html>"))

    def test_doubt_stays(self) -> None:
        """S1, S4, S5, S15, S16, S17: what later attempts end with makes no first start undone."""
        for outcome in (UNTRUSTED, NO_SOCKET, (422, b"no"), (401, b""), (307, b"")):
            self.check_unknown(LOST, outcome)
        self.check_unknown(LOST, REFUSED, REFUSED)
        self.check_unknown(LOST, (429, b""), (503, b""))
        self.check_unknown(REFUSED, LOST, (404, b""))
        self.check_unknown(REFUSED, REFUSED, LOST)

    def test_recovered_after_the_last(self) -> None:
        """S6: a callback in the grace after the last attempt is the answer."""
        client = self.play((500, b""), REFUSED, REFUSED)
        self.clock.advance(1.9)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))

    def test_no_time_is_left(self) -> None:
        """S8: an attempt that the client will not wait for is not made."""
        client = self.connect().request(headers={"Prefer": "wait=11"})
        self.clock.advance(10)
        self.clock.advance(0.2)
        self.assertEqual(self.line.calls, 2)
        self.clock.advance(0.8)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.clock.advance(60)
        self.assertEqual(self.line.calls, 2)


class JoiningTests(RetryTestCase):
    """Clients that ask for a job again while it is being started again."""

    options = {"retry": Retry.ALWAYS, "lost_after": 5.0}

    def join(self) -> Client:
        return self.connect().request(headers={"Idempotency-Key": "k"})

    def test_between_attempts(self) -> None:
        """S6, S18: a client that joins while another attempt is to come waits as long as others."""
        clients = [self.join()]
        self.starts[0].respond(b"", 500)
        clients.append(self.join())
        self.clock.advance(0.2)
        self.starts[1].ack("1")
        self.clock.advance(2)
        self.assertTrue(all(client.is_held for client in clients))
        self.call_back(self.starts[1], result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def test_lost_before(self) -> None:
        """S6, S18: a job that was acknowledged runs, however its next start ends."""
        client = self.join()
        self.starts[0].ack("1")
        self.clock.advance(5)
        self.starts[1].respond(b"", 500)
        job_id = self.starts[0].callback_path.removeprefix("/callback/").partition(".")[0]
        state = self.connect().get(f"/jobs/{job_id}").response.json
        self.assertEqual(state, {"state": "running", "id": "1"})
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
