"""A job server that is busy, and says when the proxy is to send the start request again."""

import json
import time

from tests.support.clients import Client
from tests.support.proxy import EPOCH, ProxyTestCase, result_of

#: The three forms of a date in HTTP (RFC 9110, 5.6.7).
FIXED = "%a, %d %b %Y %H:%M:%S GMT"
OBSOLETE = ("%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y")


class BusyTestCase(ProxyTestCase):
    """A job server whose responses have a Retry-After."""

    def refuse(self, retry_after: str, status: int = 503, account: str = "example") -> Client:
        """Send a job as a client, and refuse its start request."""
        client = self.submit(account)
        self.starts[-1].respond(b"", status, retry_after=retry_after)
        return client

    def submit_for(self, seconds: int, account: str = "example") -> Client:
        """Send a job as a client that waits for so many seconds."""
        body = json.dumps({"account": account}).encode()
        return self.connect().request(body=body, headers={"Prefer": f"wait={seconds}"})

    def check_pause(self, seconds: float) -> None:
        """Check that the last start request is sent again after so long, and end its job."""
        client, before = self.clients[-1], len(self.starts)
        self.clock.advance(seconds - 0.125)
        self.assertEqual(len(self.starts), before)
        self.clock.advance(0.25)
        self.assertEqual(len(self.starts), before + 1)
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(client.response.status, 200)
        self.clock.advance(-self.clock.seconds() % 1)

    def date(self, seconds: float, form: str = FIXED) -> str:
        """Return the time so many seconds from now."""
        return time.strftime(form, time.gmtime(EPOCH + self.clock.seconds() + seconds))

    def check_busy(self, client: Client, status: int, retry_after: str) -> None:
        """Check that a client got this status and this Retry-After."""
        self.assert_problem(client.response, status, "upstream-busy")
        self.assertEqual(client.response.headers["retry-after"], retry_after)
