"""Start requests whose outcome the test chooses, and a proxy that sends them."""

import errno
from collections.abc import Sequence

from twisted.internet import error
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived

from jobproxy.http1.agent import Untrusted
from tests.support.clients import Client
from tests.support.proxy import ProxyTestCase, result_of

REFUSED = error.ConnectionRefusedError()
LOST = ResponseNeverReceived([Failure(error.ConnectionLost())])
UNTRUSTED = Untrusted("a certificate of nobody")
NO_SOCKET = error.ConnectError(osError=errno.EMFILE)

#: How a start request can end: with an error, or with a status and a body.
Outcome = Exception | tuple[int, bytes]

SUCCESS: Outcome = (200, result_of("1"))
NOT_READ: Sequence[Outcome] = (
    REFUSED,
    error.DNSLookupError(),
    error.TimeoutError(),
    (429, b""),
    (503, b""),
)
AMBIGUOUS: Sequence[Outcome] = (
    LOST,
    (303, b""),
    (500, b""),
    (502, b""),
    (408, b""),
    (425, b""),
)
FINAL: Sequence[Outcome] = (
    UNTRUSTED,
    NO_SOCKET,
    *(
        (status, b"")
        for status in (400, 401, 402, 403, 404, 409, 410, 413, 418, 422, 499, 307, 308)
    ),
)


class RetryTestCase(ProxyTestCase):
    """A proxy whose start requests end as the test says."""

    def step(self) -> None:
        """Advance the clock to the next timer."""
        next_time = min(call.getTime() for call in self.clock.getDelayedCalls())
        self.clock.advance(next_time - self.clock.seconds())

    def play(self, *outcomes: Outcome, headers: dict[str, str] | None = None) -> Client:
        """Send a job as a client, and end its start requests like this, one after the other.

        An outcome that comes later, or not at all, has to be the last one.
        """
        calls, responded = len(self.sender.times), len(self.starts)
        self.sender.failures = [o if isinstance(o, Exception) else None for o in outcomes]
        client = self.connect().request(headers=headers)
        for number, outcome in enumerate(outcomes):
            while len(self.sender.times) - calls <= number:
                self.assertTrue(client.is_held, f"{number} calls")
                self.step()
            if not isinstance(outcome, Exception):
                status, body = outcome
                self.starts[responded].respond(body, status)
                responded += 1
        return client

    def count(self, outcome: Outcome) -> int:
        """Return how many start requests one job has that all end in the same way."""
        calls = len(self.sender.times)
        client = self.connect()
        responded = len(self.starts)
        self.sender.failures = [outcome if isinstance(outcome, Exception) else None] * 9
        client.request()
        while client.is_held:
            for start in self.starts[responded:]:
                assert not isinstance(outcome, Exception)
                start.respond(outcome[1], outcome[0])
            responded = len(self.starts)
            self.step()
        self.clock.advance(10)
        counted = len(self.sender.times) - calls
        # One success, so that the circuit does not open over many outcomes in one test.
        self.assertEqual(self.play(SUCCESS).response.status, 200)
        return counted


class GraceTestCase(ProxyTestCase):
    """A proxy whose start requests are ambiguous."""

    def check_grace(self, client: Client) -> None:
        """Check that a client is held for the grace, and not longer."""
        self.clock.advance(1.9)
        self.assertTrue(client.is_held)
        self.clock.advance(0.1)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
