"""Jobs with an Idempotency-Key."""

from tests.support.clients import Client
from tests.support.proxy import ProxyTestCase, result_of

BODY = b'{"account":"example","n":1}'


class KeyTestCase(ProxyTestCase):
    """A proxy whose clients send keys."""

    def send(self, body: bytes = BODY, key: str = "k", **headers: str) -> Client:
        """Send a job with a key as a client."""
        return self.connect().request(body=body, headers={"Idempotency-Key": key, **headers})

    def run_job(self) -> Client:
        """Return a client that got the result of its job."""
        client = self.send()
        self.starts[-1].ack("1")
        self.call_back(self.starts[-1], result_of("1"))
        return client

    def assert_result(self, client: Client, *, is_replayed: bool = False) -> None:
        self.assertEqual((client.response.status, client.response.body), (200, result_of("1")))
        replayed = client.response.headers.get("idempotent-replayed")
        self.assertEqual(replayed, "true" if is_replayed else None)
