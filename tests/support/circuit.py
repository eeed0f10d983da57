"""A proxy in memory whose circuit opens and closes."""

from typing import Any

from jobproxy.upstream.retries import RetryMode
from tests.support.clients import Client, Response
from tests.support.proxy import result_of
from tests.support.start_outcomes import REFUSED, RetryTestCase


class CircuitTestCase(RetryTestCase):
    """A proxy whose job server fails."""

    settings: dict[str, Any] = {"retry": RetryMode.NEVER, "wait": 60.0}

    def fail_times(self, times: int, reason: Exception = REFUSED) -> None:
        """Submit so many jobs whose start requests fail; later ones are sent."""
        self.sender.failures = [reason] * times
        for _ in range(times):
            self.submit()

    def refuse(self, times: int, status: int, body: bytes = b"") -> None:
        """Submit so many jobs, each of another account, whose start requests get this response."""
        for number in range(times):
            self.submit(f"account {number}")
            self.starts[-1].respond(body, status)

    def check_open(self) -> Response:
        """Check that a new job is refused at once, and return the response to its client."""
        calls = len(self.sender.times)
        response = self.submit("new").response
        self.assert_problem(response, 503, "upstream-unreachable")
        self.assertEqual(len(self.sender.times), calls)
        return response

    def check_closed(self) -> None:
        """Check that two jobs at once are started."""
        clients = [self.submit("new"), self.submit("new")]
        for start in self.starts[-2:]:
            start.respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200, 200])

    def probe(self) -> Client:
        """Submit a job, and check that its start request is the probe."""
        starts = len(self.starts)
        client = self.submit("probe")
        self.assertEqual(len(self.starts), starts + 1)
        self.check_open()
        return client
