"""Requests that are HTTP, and still come to nothing."""

import re
import tracemalloc
from typing import Any, ClassVar, cast

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from jobproxy.api.responses import Routes, make_resource
from jobproxy.http1.request import Request
from tests.support.clients import parse_responses
from tests.support.http1_server import (
    GET,
    RawClient,
    ServerTestCase,
    head,
    make_server,
    post,
)
from tests.support.proxy import result_of


class CrashingRoutes:
    """A route whose handler fails."""

    side: ClassVar = "client"

    def add_to(self, app: Klein) -> None:
        app.route("/proxy", methods=["POST"])(self.crash)

    def crash(self, request: Request) -> bytes:
        raise RuntimeError("secret")


class SlowRoutes(CrashingRoutes):
    """A route whose handler returns a Deferred, and an error handler of its own that fails."""

    def __init__(self) -> None:
        self.handling: Deferred[Any] = Deferred()

    def add_to(self, app: Klein) -> None:
        app.route("/slow", methods=["POST"])(self.wait)
        app.handle_errors(ZeroDivisionError)(cast(Any, self.crash_again))
        super().add_to(app)

    def wait(self, request: Request) -> Deferred[Any]:
        return self.handling

    def crash(self, request: Request) -> bytes:
        raise ZeroDivisionError

    def crash_again(self, request: Request, failure: Failure) -> bytes:
        raise RuntimeError


class RoutingTests(ServerTestCase):
    """Q23 and Q24: requests that are HTTP, and still come to nothing."""

    def test_connection_stays_open_after_404_and_405(self) -> None:
        """Q23: a request that leads nowhere does not cost its connection."""
        client = self.connect()
        client.send(GET + head(start=b"PUT /proxy HTTP/1.1") + GET)
        self.assertEqual(client.statuses, [404, 405, 404])
        self.assertEqual(client.responses[1].headers["allow"], "POST")
        self.assertTrue(client.is_open)
        self.assertEqual(self.traffic.refused, {})

    def test_405_to_every_method_but_post(self) -> None:
        """Q23: every method that HTTP knows but POST is told that POST is served."""
        for method in b"GET PUT DELETE OPTIONS PATCH TRACE PROPFIND M-SEARCH".split():
            client = self.connect()
            client.send(head(start=method + b" /proxy HTTP/1.1"))
            self.assert_problem(client.response, 405, "method-not-allowed")

    def test_response_to_head_has_the_length_of_get_and_no_body(self) -> None:
        """Q23: the response to HEAD ends with its head, whose length is that of GET."""
        client = self.connect()
        client.send(head(start=b"HEAD /elsewhere HTTP/1.1") + GET)
        parts = re.split(rb"(?=HTTP/1\.1 404 )", client.transport.value())[1:]
        self.assertEqual(len(parts), 2)
        self.assertTrue(parts[0].endswith(b"\r\n\r\n"))
        (length,) = re.findall(rb"\r\nContent-Length: (\d+)\r\n", parts[0])
        self.assertEqual(int(length), len(parse_responses(parts[1])[0].body))

    def test_absolute_target_is_accepted(self) -> None:
        """A target may be a whole URL, as it is sent to a proxy (RFC 9112, section 3.2.2)."""
        for target in (b"http://proxy.example/proxy", b"http://proxy.example:8080/proxy?x=y"):
            client = self.connect()
            client.send(post().replace(b"/proxy ", target + b" "))
            self.assertEqual(client.statuses, [])
            self.starts.pop().respond(result_of("1"))
            self.assertEqual(client.statuses, [200])

    def test_404_when_an_absolute_target_has_an_unknown_path(self) -> None:
        """A target of another path is not found, whole URL or not."""
        client = self.connect()
        client.send(post().replace(b"/proxy ", b"http://proxy.example/elsewhere "))
        self.assert_problem(client.response, 404, "not-found")

    def test_404_to_options_of_the_whole_server(self) -> None:
        """OPTIONS of the whole server gets a response, on a connection that stays."""
        client = self.connect()
        client.send(head(start=b"OPTIONS * HTTP/1.1") + head(start=b"POST * HTTP/1.1"))
        for response in client.responses:
            self.assert_problem(response, 404, "not-found")
        self.assertEqual(len(client.responses), 2)
        self.assertTrue(client.is_open)

    def test_spellings_of_a_path_are_not_remembered(self) -> None:
        """However many ways there are to write a path, none is remembered."""
        client = self.connect()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for path in (b"proxy", b"callback/x"):
            sizes = []
            for number in range(100):
                slashes = b"/" * (10_000 + number)
                client.send(head(start=b"POST %b%b HTTP/1.1" % (slashes, path)))
                client.transport.clear()
                sizes.append(tracemalloc.get_traced_memory()[0])
            self.assertLess(sizes[-1] - sizes[20], 200_000, path)

    def connect_to(self, routes: Routes) -> RawClient:
        """Return a client of a server with these routes only."""
        self.site = make_server(make_resource(routes), self.clock, self.traffic)
        return self.connect()

    def test_connection_is_aborted_when_an_error_handler_fails(self) -> None:
        """If an error handler fails too, that is logged and the connection is aborted."""
        client = self.connect_to(SlowRoutes())
        client.send(post())
        self.assertTrue(client.transport.is_aborted)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_connection_is_aborted_when_an_error_handler_of_a_deferred_fails(self) -> None:
        """If a handler fails later, and so does its error handler, the connection is aborted."""
        routes = SlowRoutes()
        client = self.connect_to(routes)
        client.send(post().replace(b"/proxy", b"/slow"))
        self.assertTrue(client.is_open)
        routes.handling.errback(ZeroDivisionError())
        self.assertTrue(client.transport.is_aborted)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_connection_is_aborted_when_a_response_is_not_bytes(self) -> None:
        """If a handler returns no bytes, that is logged and the connection is aborted."""
        routes = SlowRoutes()
        client = self.connect_to(routes)
        client.send(post().replace(b"/proxy", b"/slow"))
        routes.handling.callback("text")
        self.assertTrue(client.transport.is_aborted)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_500_when_a_handler_fails(self) -> None:
        """Q24: a request whose handler fails gets its response, and so do those behind it."""
        client = self.connect_to(CrashingRoutes())
        client.send(post() + GET)
        self.assert_problem(client.responses[0], 500, "internal", started="unknown")
        self.assertEqual(client.statuses, [500, 404])
        self.assertNotIn(b"secret", client.transport.value())
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
