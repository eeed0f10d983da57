"""Secrets: tokens and callback URLs never reach clients, the log, metrics or the store.

Only the job server gets the callback URL of a job. Where it quotes that in an ack, or in the reason
for which it refuses a job, the secret part is hidden: the token, or with ``correlate_by`` id, whose
one callback URL has a secret path, the whole URL. All other text reaches the client unchanged.
After each test, ``tests/conftest.py`` also searches the log and the metrics for secrets.
"""

import json
from typing import Any, cast
from urllib.parse import quote

from twisted.logger import ILogObserver, LogEvent, capturedLogs, globalLogPublisher

from jobproxy.app.settings import CorrelateBy
from tests.support.callbacks import ByIdTestCase, CallbackTestCase, read_log
from tests.support.clients import Response
from tests.support.cluster import ClusterTestCase
from tests.support.job_server import Start
from tests.support.proxy import CALLBACK_URL, ProxyTestCase, result_of


class LogTests(CallbackTestCase):
    """What is logged of jobs and callbacks."""

    def test_job_events_have_no_token(self) -> None:
        """No line that is logged about a job or its callback has the token of its URL."""
        events: list[LogEvent] = []
        observe = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.submit()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        states = ["queued", "starting", "running", "ended"]
        self.assertEqual([event["state"] for event in events], states)
        self.assertNotIn(self.starts[0].token, str(events))

    def test_refused_callbacks_show_no_token(self) -> None:
        """B6: the secret part of a token is in no line of the log and in no response."""
        with capturedLogs() as events:
            client, start = self.run_job()
            responses = [self.call_back(start, result_of("2")), self.call_back(start, b"")]
            self.clock.advance(30)
            responses += [client.response, self.call_back(start, result_of("1"))]
            responses += [self.call_back(start, result_of("3")), self.poll(start)]
        secret = start.token.partition(".")[2]
        self.assertNotIn(secret, read_log(events))
        self.assertNotIn(secret, repr(responses))


class ResponseTests(ProxyTestCase):
    """What clients and the operator get."""

    def test_no_response_has_a_token(self) -> None:
        """Q3: in no state of a job does a client or the operator get its token."""
        clients = [self.submit(), self.connect().request(headers={"Prefer": "respond-async"})]
        start = self.starts[1]
        looks = []
        for advance in (
            lambda: None,
            lambda: start.ack("1"),
            lambda: self.clock.advance(30),
            lambda: self.call_back(start, result_of("1")),
        ):
            advance()
            looks.append(self.connect().get(start.job_path))
            looks += [
                self.operate().get(path) for path in ("/jobs", "/status", "/orphans", "/metrics")
            ]
        shown = b"".join(client.transport.value() for client in [*clients, *looks])
        self.assertIn(start.job_id.encode(), shown)
        for each in self.starts:
            self.assertNotIn(each.token.partition(".")[2].encode(), shown)

    def test_job_id_is_not_enough_to_call_back(self) -> None:
        """B6: nothing that a client gets is enough to end a job."""
        client = self.submit()
        (start,) = self.starts
        start.ack("1")
        for token in (start.job_id, f"{start.job_id}.", f"{start.job_id}.{'A' * 22}"):
            forged = self.connect().request(f"/callback/{token}", result_of("1")).response
            self.assert_problem(forged, 404, "not-found")
        self.assertTrue(client.is_held)
        self.call_back(start, result_of("1"))


def refuse(start: Start, words: str) -> None:
    """Refuse a job with these words."""
    start.respond(json.dumps({"error": words}).encode(), 422)


class QuoteTests(ProxyTestCase):
    """A job server that quotes the start request that it refuses."""

    def quote(self, words: str) -> str:
        """Return what a client gets of these words, in which TOKEN stands for the token."""
        client = self.submit()
        start = self.starts[-1]
        refuse(start, words.replace("TOKEN", start.token))
        problem = self.assert_problem(client.response, 422, "upstream-rejected")
        self.assertNotIn(start.token.partition(".")[2], client.response.body.decode())
        quoted: str = json.loads(problem["upstreamBody"])["error"]
        return quoted

    def test_token_is_hidden_wherever_it_is_quoted(self) -> None:
        """S15: the token is hidden wherever the job server quotes it, and nothing else is."""
        self.assertEqual(self.quote("bad TOKEN"), "bad [hidden]")
        self.assertEqual(self.quote("TOKEN and TOKEN."), "[hidden] and [hidden].")
        self.assertEqual(self.quote("no /callback/TOKEN/x"), "no /callback/[hidden]/x")
        self.assertEqual(self.quote(f"{CALLBACK_URL}/TOKEN"), f"{CALLBACK_URL}/[hidden]")

    def test_refusal_without_the_token_is_unchanged(self) -> None:
        """S15: words of the job server without the token reach the client unchanged."""
        words = "callback must be an https URL"
        self.assertEqual(self.quote(words), words)

    def test_token_is_hidden_before_the_body_is_cut(self) -> None:
        """S15: no part of a token is left where a long refusal is cut."""
        for length in range(1_000, 1_024, 4):
            client = self.submit()
            start = self.starts[-1]
            start.respond(b"x" * length + start.token.encode(), 422)
            problem = self.assert_problem(client.response, 422, "upstream-rejected")
            self.assertNotIn(start.token[:8], problem["upstreamBody"])

    def test_poll_and_replay_have_it_hidden_too(self) -> None:
        """Q3, S15: a poll for a job that was refused has no token either."""
        self.connect().request(headers={"Prefer": "respond-async"})
        (start,) = self.starts
        refuse(start, f"bad {start.token}")
        found = self.connect().get(start.job_path).response
        self.assertIn("bad [hidden]", found.json["upstreamBody"])
        self.assertNotIn(start.token, found.body.decode())


class EchoTests(ProxyTestCase):
    """A job server that quotes the start request in its ack."""

    def start(self, **members: Any) -> Response:
        """Return what a client gets of an ack with these members and the start request."""
        client = self.connect().request(headers={"Prefer": "respond-async"})
        (start,) = self.starts[-1:]
        start.respond(json.dumps({"id": "1", "request": start.body, **members}).encode())
        response = client.response
        self.assertNotIn(start.token.partition(".")[2], response.body.decode())
        return response

    def test_token_in_an_ack_is_hidden(self) -> None:
        """S27: a client that does not wait gets the ack without the token, or the inline result."""
        response = self.start(state="running")
        self.assertEqual(response.status, 202)
        self.assertEqual(response.json["request"]["callback"], f"{CALLBACK_URL}/[hidden]")
        self.assertEqual(response.json["request"]["account"], "example")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(self.start(state="completed").status, 200)

    def test_it_is_logged_once(self) -> None:
        """S27: that the job server does this is logged once."""
        with capturedLogs() as events:
            for _ in range(3):
                self.start(state="completed")
        self.assertEqual(read_log(events).count("quote the callback URL"), 1)

    def test_ack_that_quotes_nothing_is_unchanged(self) -> None:
        """S27: any other ack is passed on byte for byte."""
        client = self.connect().request(headers={"Prefer": "respond-async"})
        ack = rb'{ "id":"1","see":"http:\/\/proxy.example\/callback\/%20\u0041" }'
        self.starts[0].respond(ack)
        self.assertEqual(client.response.body, ack)
        self.call_back(self.starts[0], result_of("1"))

    def test_upstream_id_that_is_the_token_is_none(self) -> None:
        """S27: a job server that takes our token as its id of the job shows it to nobody."""
        client = self.connect().request(headers={"Prefer": "respond-async"})
        start = self.starts[0]
        start.respond(json.dumps({"id": start.token, "state": "running"}).encode())
        poll = self.connect().get(client.response.headers["location"]).response
        for response in (client.response, poll):
            self.assertNotIn(start.token, response.body.decode())
        self.call_back(start, result_of(start.token))


class ByIdEchoTests(ByIdTestCase):
    """The same with ``correlate_by`` id: with the one callback URL, all results can be forged."""

    settings: dict[str, Any] = {
        "correlate_by": CorrelateBy.ID,
        "callback_url": f"{CALLBACK_URL}/x7Kq",
    }

    def test_callback_url_in_an_ack_is_hidden_however_it_is_escaped(self) -> None:
        """S27: the callback URL is hidden in acks, also as PHP and others escape it."""
        for number, escape in enumerate(
            (
                lambda url: url,
                lambda url: url.replace("/", "\\/"),
                lambda url: "".join(f"\\u{ord(character):04X}" for character in url),
                lambda url: quote(url, safe=""),
            )
        ):
            client = self.connect().request(headers={"Prefer": "respond-async"})
            url = escape(self.starts[-1].body["callback"])
            self.starts[-1].respond(b'{"id":"%d","at":"%s"}' % (number, url.encode()))
            self.assertEqual(client.response.json, {"id": f"{number}", "at": "[hidden]"})
            self.call_back_by_id(result_of(f"{number}"))


class ByIdQuoteTests(ByIdTestCase):
    """The same with ``correlate_by`` id, whose callback URL has a secret path."""

    settings: dict[str, Any] = {
        "correlate_by": CorrelateBy.ID,
        "callback_url": f"{CALLBACK_URL}/x7Kq",
    }

    def quote(self, body: bytes) -> str:
        """Return what a client gets of this refusal."""
        client = self.submit()
        self.starts[-1].respond(body, 422)
        problem = self.assert_problem(client.response, 422, "upstream-rejected")
        quoted: str = problem["upstreamBody"]
        return quoted

    def test_callback_url_is_hidden_where_it_is_quoted(self) -> None:
        """S15: the whole callback URL is hidden where the job server quotes it."""
        self.submit().leave()
        url = self.starts[-1].body["callback"]
        self.starts[-1].respond(result_of("1"))
        self.assertEqual(url, f"{CALLBACK_URL}/x7Kq")
        quoted = self.quote(b"cannot call " + url.encode() + b", nor " + url.encode())
        self.assertEqual(quoted, "cannot call [hidden], nor [hidden]")

    def test_refusal_without_the_callback_url_is_unchanged(self) -> None:
        """S15: words about callbacks reach the client unchanged; "/callback" is no secret."""
        for body in (
            b'{"error": "callback must be an https URL"}',
            b'{"error": "no route to /callback at http://proxy.example"}',
        ):
            self.assertEqual(self.quote(body), body.decode())


class ShortPathTests(ByIdQuoteTests):
    """The same with the callback URL ``/callback``, which is easy to guess."""

    settings: dict[str, Any] = {"correlate_by": CorrelateBy.ID}

    def test_callback_url_is_hidden_where_it_is_quoted(self) -> None:
        """S15: the whole callback URL is hidden although its path could be guessed."""
        self.assertEqual(self.quote(CALLBACK_URL.encode()), "[hidden]")


class ClusterTests(ClusterTestCase):
    """What the nodes share."""

    def test_store_has_no_token(self) -> None:
        """B6: neither a claim, an ack, a result nor an orphan in the store has a token."""
        self.nodes[0].submit(key="k")
        self.nodes[1].submit(key="k")
        self.nodes[0].submit("account 1", Prefer="respond-async")
        self.nodes[0].submit("account 2").leave()
        for number, start in enumerate(self.starts):
            start.ack(f"{number}")
            self.nodes[2].call_back(start, result_of(f"{number}"))
            self.cluster.settle()
        shared = self.cluster.shared
        stored = repr((shared.claims, shared.results, shared.notes, shared.orphans))
        for start in self.starts:
            self.assertIn(start.job_id, stored)
            self.assertNotIn(start.token.partition(".")[2], stored)

    def test_metrics_and_status_of_all_nodes_have_no_token(self) -> None:
        """B6: no node shows the token of a job, be it its own or of another node."""
        client = self.nodes[0].submit(key="k")
        joined = self.nodes[1].submit(key="k", Prefer="respond-async")
        self.starts[0].ack("1")
        self.cluster.settle()
        looks = [
            node.operate().get(path)
            for node in self.nodes
            for path in ("/jobs", "/status", "/metrics", "/orphans")
        ]
        self.nodes[1].call_back(self.starts[0], result_of("1"))
        self.cluster.settle()
        shown = b"".join(look.transport.value() for look in [*looks, client, joined])
        self.assertIn(self.starts[0].job_id.encode(), shown)
        self.assertNotIn(self.starts[0].token.partition(".")[2].encode(), shown)
