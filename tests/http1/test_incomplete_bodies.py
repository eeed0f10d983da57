"""Bodies that have not arrived completely: which are kept, and in how much memory."""

from typing import Any

from jobproxy.http1.body_budget import BodyBudget
from tests.support.http1_server import RawClient, ServerTestCase, head, post_chunked
from tests.support.proxy import result_of

#: More than is kept of any body without a look at its route.
LARGE = 60_000
NOT_OURS = b"POST /callback/%b HTTP/1.1"


class IncompleteTestCase(ServerTestCase):
    def budget_of(self, path: bytes) -> BodyBudget:
        budget = self.site.parsing[1](b"POST", path)
        assert budget is not None
        return budget

    def setUp(self) -> None:
        super().setUp()
        self.budget = self.budget_of(b"/proxy")

    def begin(self, start: bytes, size: int = LARGE) -> RawClient:
        """Send a head, and all of its body but the last byte."""
        client = self.connect()
        client.send(head(b"Content-Length: %d" % size, start=start))
        client.send(b"x" * (size - 1))
        return client

    def tearDown(self) -> None:
        super().tearDown()
        kept = self.proxy.probes.count_kept()
        self.assertEqual((self.budget.size, kept["incomplete"]), (0, 0))


class DroppedTests(IncompleteTestCase):
    """Bodies that no route can use."""

    def test_body_of_a_callback_without_a_good_token_is_not_kept(self) -> None:
        """B18: nothing of a body is kept whose callback has no good token, or no such route."""
        for start in (
            NOT_OURS % b"x",
            NOT_OURS % self.signer.mint().text[:-1].encode(),
            b"POST /nowhere HTTP/1.1",
            b"GET /proxy HTTP/1.1",
            b"POST /%ff HTTP/1.1",
        ):
            client = self.begin(start)
            self.assertEqual(self.budget.size, 0)
            client.send(b"x")
            self.assertIn(client.response.status, {400, 404, 405})

    def test_response_is_that_of_any_unknown_path(self) -> None:
        """B18: the response is the same as for any unknown path, but for its request id."""
        bodies = set()
        for start in (NOT_OURS % b"x", b"POST /nowhere HTTP/1.1"):
            client = self.begin(start)
            client.send(b"x")
            bodies.add(
                client.response.body.replace(client.response.json["requestId"].encode(), b"")
            )
        self.assertEqual(len(bodies), 1)

    def test_chunked_body_is_not_kept_either(self) -> None:
        """B18: nor is a chunked body."""
        client = self.connect()
        chunked = post_chunked(b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
        client.send(chunked.replace(b"/proxy", b"/callback/x", 1))
        self.assertEqual(self.budget.size, 0)
        client.send(b"0\r\n\r\n")
        self.assertEqual(client.response.status, 404)

    def test_body_of_a_good_callback_is_kept(self) -> None:
        """B18: the body of a callback with a good token arrives, however large it may be."""
        held = self.hold()
        path = self.starts[0].callback_path.encode()
        body = result_of("1").replace(b"}", b',"x":"%b"}' % (b"y" * LARGE))
        client = self.connect()
        client.send(head(b"Content-Length: %d" % len(body), start=b"POST %b HTTP/1.1" % path))
        client.send(body[:-1])
        self.assertEqual(self.budget_of(path).size, len(body) - 1)
        client.send(body[-1:])
        self.assertEqual((client.response.status, held.response.body), (200, body))


class BudgetTests(IncompleteTestCase):
    """Many large bodies at the same time."""

    def test_bodies_over_the_budget_are_refused(self) -> None:
        """L11: large bodies that arrive at the same time have a budget; over it they get 503."""
        self.budget.limit = 3 * LARGE
        clients = [self.begin(b"POST /proxy HTTP/1.1") for _ in range(3)]
        refused = self.begin(b"POST /proxy HTTP/1.1")
        self.assert_problem(refused.response, 503, "overloaded")
        self.assertEqual(refused.response.headers["retry-after"], "1")
        self.assertLessEqual(self.budget.size, self.budget.limit)
        clients[0].leave()
        again = self.begin(b"POST /proxy HTTP/1.1")
        for client in (*clients[1:], again):
            client.send(b"x")
            self.assert_problem(client.response, 400, "invalid-json")

    def test_clients_take_no_memory_of_callbacks(self) -> None:
        """L11: slow clients that fill their budget keep no callback out, however large it is."""
        held = self.hold()
        self.budget.limit = 2 * LARGE
        slow = [self.begin(b"POST /proxy HTTP/1.1") for _ in range(3)]
        self.assert_problem(slow[2].response, 503, "overloaded")
        body = result_of("1").replace(b"}", b',"x":"%b"}' % (b"y" * LARGE))
        start = b"POST %b HTTP/1.1" % self.starts[0].callback_path.encode()
        sender = self.connect()
        sender.send(head(b"Content-Length: %d" % len(body), start=start))
        sender.send(body)
        self.assertEqual((sender.response.status, held.response.body), (200, body))
        for client in slow[:2]:
            client.leave()

    def test_small_bodies_need_no_budget(self) -> None:
        """L11: small bodies, as jobs and callbacks mostly have, are not refused for it."""
        self.budget.limit = 0
        client = self.hold()
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.status, 200)


class OverheadTests(ServerTestCase):
    """Chunks that are mostly not the body."""

    def check(self, chunk: bytes, chunks: int) -> int:
        """Send chunks until the connection is refused; return how many bytes that took."""
        client = self.connect()
        client.send(post_chunked(b""))
        sent = 0
        for _ in range(chunks):
            client.send(chunk)
            sent += len(chunk)
            if client.transport.value():
                self.assert_problem(client.response, 400, "malformed-request")
                return sent
        return sent

    def test_extensions_of_chunks_are_bounded_for_each_body(self) -> None:
        """Q27: what a body's chunks consist of but the body is bounded for all of them."""
        sent = self.check(b"1;%b\r\nx\r\n" % (b"e" * 30_000), 1_500)
        self.assertLess(sent, 300_000)

    def test_trailers_count_too(self) -> None:
        """Q27: the same holds for trailers, which have the limits of a head."""
        client: Any = self.connect()
        client.send(post_chunked(b"1\r\nx\r\n0\r\n"))
        for number in range(100):
            client.send(b"X-%d: %b\r\n" % (number, b"y" * 1_000))
            if client.transport.value():
                break
        self.assertEqual(client.response.status, 431)
