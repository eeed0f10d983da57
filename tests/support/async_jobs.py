"""Jobs whose clients do not wait for the result."""

from tests.support.clients import JSON, Client
from tests.support.job_server import Start
from tests.support.proxy import ProxyTestCase

#: Oddly spaced, so that a copy that is not exact shows.
ACK = b'{ "state":"running",\t"id":"1" }\n'


class AsyncTestCase(ProxyTestCase):
    def send(self, prefer: str = "respond-async") -> Client:
        """Send a job as a client, with this preference."""
        return self.connect().request(headers={"Prefer": prefer})

    def run_job(self) -> Start:
        """Send a job for which the client does not wait, and its ack."""
        self.send()
        self.starts[-1].respond(ACK)
        return self.starts[-1]

    def assert_accepted(self, client: Client, body: bytes, start: Start) -> None:
        """Check for a 202 with this body and the path of the job."""
        response = client.response
        self.assertEqual((response.status, response.body), (202, body))
        self.assertEqual(response.headers["content-type"], JSON)
        self.assertEqual(response.headers["location"], start.job_path)
        self.assertNotIn("content-location", response.headers)

    def assert_result(self, client: Client, body: bytes, start: Start) -> None:
        """Check for a 200 with the result."""
        response = client.response
        self.assertEqual((response.status, response.body), (200, body))
        self.assertEqual(response.headers["content-type"], JSON)
        self.assertEqual(response.headers["content-location"], start.job_path)
        self.assertNotIn("location", response.headers)
