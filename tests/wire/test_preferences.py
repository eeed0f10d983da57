"""Headers: the preferences of clients, and what responses say about the job."""

from typing import cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire.preferences import Preferences, parse_preferences
from jobproxy.wire.problems import Kind, ProblemError
from tests.support.clients import Client
from tests.support.problems import refuses
from tests.support.proxy import ProxyTestCase, result_of

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

names = st.sampled_from([b"prefer", b"idempotency-key", b"traceparent", b"tracestate", b"host"])
pieces = st.sampled_from([b"wait", b"=", b"respond-async", b",", b";", b'"', b" ", b"7", b"\xff"])
header_values = st.binary(max_size=300) | st.lists(pieces, max_size=12).map(b"".join)


def read(**headers: bytes) -> Preferences:
    return parse_preferences(
        [(name.replace("_", "-").encode(), value) for name, value in headers.items()]
    )


class PreferTests(SynchronousTestCase):
    """Q3: Prefer (RFC 7240)."""

    def check(self, prefer: bytes, wait: int | None, is_async: bool = False) -> None:
        preferences = read(prefer=prefer)
        self.assertEqual((preferences.wait, preferences.is_async), (wait, is_async), prefer)

    @given(st.lists(st.tuples(names, header_values), max_size=6))
    def test_any_bytes_are_preferences_or_a_problem(
        self, headers: list[tuple[bytes, bytes]]
    ) -> None:
        """Q3: any headers are preferences or an invalid request."""
        try:
            preferences = parse_preferences(headers)
        except ProblemError:
            return
        self.assertTrue(preferences.wait is None or 0 <= preferences.wait < 10**9)
        self.assertTrue(preferences.key is None or 1 <= len(preferences.key) <= 255)

    def test_no_headers_are_no_preferences(self) -> None:
        """Q3: without these headers there are no preferences."""
        self.assertEqual(
            parse_preferences([(b"host", b"wait=5"), (b"accept", b"respond-async")]), Preferences()
        )

    def test_prefer_is_read_in_all_its_forms(self) -> None:
        """Q3: names in any case, quoted values, spaces and parameters are accepted."""
        self.check(b"wait=5", 5)
        self.check(b"Wait=5", 5)
        self.check(b'wait="5"', 5)
        self.check(b"wait = 5", 5)
        self.check(b"wait=5;foo=bar", 5)
        self.check(b" wait=0 ", 0)
        self.check(b"Respond-Async", None, is_async=True)
        self.check(b"respond-async, wait=10", 10, is_async=True)
        self.check(b"wait=10,respond-async;x", 10, is_async=True)

    def test_unknown_preferences_are_ignored(self) -> None:
        """Q3: an unknown preference is ignored, and the others count."""
        self.check(b"return=minimal, handling=lenient, wait=5", 5)
        self.check(b",, wait=5,", 5)
        self.check(b"waiting=5, no-respond-async", None)

    def test_wait_that_is_no_number_is_ignored(self) -> None:
        """Q3: a wait that is no number of seconds is ignored."""
        for value in (b"", b"=", b"=x", b"=-1", b"=1.5", b"=1e3", b"=\xb2", b"=5 6", b"=0x5"):
            self.check(b"wait" + value, None)
            self.check(b"respond-async, wait" + value, None, is_async=True)

    def test_first_of_two_equal_preferences_counts(self) -> None:
        """Q3: of a preference that is there twice the first one counts, even if it is malformed."""
        self.check(b"wait=5, wait=7", 5)
        self.check(b"wait=x, wait=7", None)

    def test_several_headers_are_one_list(self) -> None:
        """Q3: several headers are one list."""
        preferences = parse_preferences(
            [(b"prefer", b"wait=5"), (b"prefer", b"respond-async, wait=7")]
        )
        self.assertEqual((preferences.wait, preferences.is_async), (5, True))

    def test_quoted_text_is_no_preference(self) -> None:
        """Q3: quoted text is a value, whatever is in it."""
        self.check(b'foo="a, wait=5, respond-async", wait=3', 3)
        self.check(b'foo="a; b, respond-async"', None)
        self.check(b'foo="\\", wait=5", wait=3', 3)


class KeyTests(SynchronousTestCase):
    """Idempotency-Key."""

    def test_key_is_the_same_with_and_without_quotes(self) -> None:
        """A key is the same with and without quotes."""
        longest = b"k" * 255
        for value, key in (
            (b"8e03978e-40d5-43dd", "8e03978e-40d5-43dd"),
            (b'"8e03978e-40d5-43dd"', "8e03978e-40d5-43dd"),
            (b'"two words"', "two words"),
            (b" k ", "k"),
            (longest, longest.decode()),
            (b'"%b"' % longest, longest.decode()),
        ):
            self.assertEqual(read(idempotency_key=value).key, key)

    def test_quoted_key_is_a_string_of_structured_fields(self) -> None:
        """A key in quotes is a string of RFC 8941: escapes are undone, parameters ignored."""
        for value, key in (
            (rb'"a\"b"', 'a"b'),
            (rb'"a\\b"', "a\\b"),
            (b'"k";v=1', "k"),
            (b'"k"; a;b="x;\\"y";c=?1;d=tok/en:1', "k"),
            (b'"%b"' % (b'\\"' * 255), '"' * 255),
            (b"k;v=1", "k;v=1"),
        ):
            self.assertEqual(read(idempotency_key=value).key, key)
        for value in (
            b'"k',
            b'"k"x',
            b'"k";',
            b'"k";=1',
            b'"k";A=1',
            rb'"\k"',
            b'"a"b"',
            b'"k" "l"',
        ):
            with refuses(Kind.INVALID_REQUEST):
                read(idempotency_key=value)

    def test_key_that_is_empty_long_or_not_printable_is_refused(self) -> None:
        """A key that is empty, too long or not printable ASCII is refused."""
        for value in (b"", b" ", b'""', b"k" * 256, b'"%b"' % (b"k" * 256), b"a b", b"\xe9", b"\1"):
            with refuses(Kind.INVALID_REQUEST):
                read(idempotency_key=value)

    def test_two_keys_are_refused(self) -> None:
        """Two keys are refused, even if they are equal."""
        with refuses(Kind.INVALID_REQUEST):
            parse_preferences([(b"idempotency-key", b"k"), (b"idempotency-key", b"k")])


class TraceTests(ProxyTestCase):
    """Headers that are forwarded with the start request."""

    def forward(self, **headers: str) -> dict[str, str | None]:
        """Return the headers of the start request for a request with these headers."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connect().request(headers=fields)
        start = self.starts[-1]
        start.respond(result_of("1"))
        names = ("traceparent", "tracestate", "x-request-id")
        return {name: cast("str | None", start.request.getHeader(name)) for name in names}

    def test_trace_and_request_id_are_forwarded(self) -> None:
        """The trace and the request's id are forwarded unchanged."""
        parent = PARENT.decode()
        headers = self.forward(traceparent=parent, tracestate="a=1,b=2", x_request_id="mine")
        self.assertEqual(
            headers, {"traceparent": parent, "tracestate": "a=1,b=2", "x-request-id": "mine"}
        )

    def test_several_tracestates_are_one_list(self) -> None:
        """Several tracestate headers are one list, in their order."""
        headers = self.forward(traceparent=PARENT.decode(), tracestate="a=1", TraceState="b=2")
        self.assertEqual(headers["tracestate"], "a=1,b=2")

    def test_start_request_has_the_id_of_the_response(self) -> None:
        """Without a usable id the start request has the one that is in the response."""
        self.assertEqual(self.forward(x_request_id="not fit")["x-request-id"], "id-0")
        self.assertEqual(
            self.forward(), {"traceparent": None, "tracestate": None, "x-request-id": "id-1"}
        )

    def test_malformed_traceparent_is_not_forwarded(self) -> None:
        """A malformed traceparent is not forwarded, and neither is a tracestate without one."""
        parent = PARENT.decode()
        no_trace = parent.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)
        no_span = parent.replace("00f067aa0ba902b7", "0" * 16)
        for wrong in ("", "x", parent[:-1], no_trace, no_span, parent.upper(), "ff" + parent[2:]):
            headers = self.forward(traceparent=wrong, tracestate="a=1")
            self.assertEqual((headers["traceparent"], headers["tracestate"]), (None, None), wrong)
        self.assertEqual(self.forward(traceparent=parent, Traceparent=parent)["traceparent"], None)

    def test_trace_of_a_later_version_is_used_by_its_first_four_fields(self) -> None:
        """A traceparent of a higher version goes on as one of ours, with the flag that we know."""
        middle = PARENT[2:-2].decode()
        for parent, sent in (
            (f"01{middle}01", f"00{middle}01"),
            (f"cc{middle}03-what-the-future", f"00{middle}01"),
            (f"fe{middle}02-", f"00{middle}00"),
            (f"00{middle}02", f"00{middle}02"),
        ):
            self.assertEqual(self.forward(traceparent=parent)["traceparent"], sent)
        for wrong in (f"00{middle}01-x", f"01{middle}01x", f"01{middle}011", f"ff{middle}01-x"):
            self.assertIsNone(self.forward(traceparent=wrong)["traceparent"])

    def test_members_of_a_long_tracestate_are_kept_from_the_left(self) -> None:
        """Of a long tracestate, the long members go first, and then the last ones."""
        parent = PARENT.decode()
        members = [f"k{number}=" + "v" * 96 for number in range(9)]
        long = "long=" + "x" * 200
        headers = self.forward(traceparent=parent, tracestate=", ".join([long, *members]))
        self.assertEqual(headers["tracestate"], ",".join(members[:5]))
        whole = "k=" + "v" * 510
        headers = self.forward(traceparent=parent, tracestate=whole)
        self.assertEqual(headers["tracestate"], whole)

    def test_tracestate_over_512_characters_is_left_out(self) -> None:
        """Of a tracestate of more than 512 characters the member that is too long is left out."""
        parent = PARENT.decode()
        headers = self.forward(traceparent=parent, tracestate="a=" + "1" * 511, Tracestate="b=2")
        self.assertEqual((headers["traceparent"], headers["tracestate"]), (parent, "b=2"))


class WaitTests(ProxyTestCase):
    """Q3: clients that ask for a wait; by default the proxy holds them for 30 seconds."""

    def send(self, **headers: str) -> Client:
        return self.connect().request(headers=headers)

    def check_wait(self, client: Client, seconds: float, applied: str | None) -> None:
        """Check that a client is held for exactly that time, and that its response has it."""
        self.starts[-1].ack("1")
        self.clock.advance(seconds - 0.1)
        self.assertTrue(client.is_held)
        self.clock.advance(0.1)
        self.assert_problem(client.response, 504, "wait-over", started="yes")
        self.assertEqual(client.response.headers.get("preference-applied"), applied)

    def test_client_is_held_for_its_wait(self) -> None:
        """Q3: a client is held for as long as it asks, and the 504 has that wait."""
        self.check_wait(self.send(Prefer="wait=5"), 5, "wait=5")

    def test_wait_is_limited_by_the_option(self) -> None:
        """Q3: no client is held longer than --wait, and the response has that wait."""
        self.check_wait(self.send(Prefer="wait=600"), 30, "wait=30")

    def test_first_wait_counts(self) -> None:
        """Q3: of several waits, in one header or in several, the first counts."""
        self.check_wait(self.send(Prefer="wait=5, wait=7"), 5, "wait=5")
        self.check_wait(self.send(Prefer='foo, wait="6"', prefer="wait=7"), 6, "wait=6")

    def test_malformed_wait_is_like_none(self) -> None:
        """Q3: with a malformed wait a client is held as without one."""
        self.check_wait(self.send(Prefer="wait=soon"), 30, None)
        self.check_wait(self.send(Prefer="wait=-1, return=minimal"), 30, None)
        self.check_wait(self.send(), 30, None)

    def test_result_within_the_wait_is_the_response(self) -> None:
        """Q3: a result within the wait is the response, which has the wait too."""
        client = self.send(Prefer="wait=5")
        self.starts[0].ack("1")
        self.clock.advance(4.9)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual((client.response.status, client.response.body), (200, result_of("1")))
        self.assertEqual(client.response.headers["preference-applied"], "wait=5")

    def test_queued_job_is_not_started_after_the_wait(self) -> None:
        """Q3: a job that is queued when the wait is over is never started."""
        others = [self.submit(), self.submit()]
        client = self.send(Prefer="wait=1")
        self.clock.advance(1)
        problem = self.assert_problem(client.response, 504, "wait-over", started="no")
        self.assertEqual(problem["instance"], f"/jobs/{problem['job']}")
        self.assertEqual(client.response.headers["retry-after"], "1")
        for start in self.starts:
            start.respond(result_of("1"))
        self.assertEqual([other.response.status for other in others], [200, 200])
        self.assertEqual(len(self.starts), 2)

    def test_wait_shorter_than_the_grace_counts(self) -> None:
        """Q3: a wait that is shorter than the grace of an ambiguous start counts."""
        client = self.send(Prefer="wait=1")
        self.starts[0].respond(b"", 500)
        self.clock.advance(1)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.assertEqual(client.response.headers["preference-applied"], "wait=1")

    def test_wait_of_zero_gets_a_response_at_once(self) -> None:
        """Q3: a client with a wait of zero gets at once what is known."""
        client = self.send(Prefer="wait=0")
        self.clock.advance(0)
        self.assert_problem(client.response, 504, "start-unknown", started="unknown")
        self.starts[0].ack("1")
        self.assertEqual(self.call_back(self.starts[0], result_of("1")).json, {"status": "late"})

    def test_503_when_the_account_is_paused_for_longer_than_the_wait(self) -> None:
        """Q3, S17: a client whose wait is shorter than its account's pause gets 503 at once."""
        held = self.submit()
        self.starts[0].respond(b"", 429, retry_after="10")
        refused = self.send(Prefer="wait=5")
        self.assert_problem(refused.response, 503, "upstream-busy")
        patient = self.send(Prefer="wait=15")
        self.clock.advance(10)
        self.assertEqual(len(self.starts), 3)
        for start in self.starts[1:]:
            start.respond(result_of("1"))
        self.assertEqual((held.response.status, patient.response.status), (200, 200))


class ResponseHeaderTests(ProxyTestCase):
    """Headers of responses about the job."""

    settings = {"starts_per_account": 1, "max_held": 3}

    def test_response_has_location_and_timing_of_the_job(self) -> None:
        """A response has the path of the result and how long each part of the job took."""
        held, client = self.submit(), self.connect().request(headers={"X-Request-Id": "mine"})
        self.clock.advance(0.25)
        self.starts[0].respond(result_of("1"))
        self.clock.advance(0.0305)
        self.starts[1].ack("2")
        self.clock.advance(1.5)
        self.call_back(self.starts[1], result_of("2"))
        response = client.response
        for name in ("date", "content-length"):
            response.headers.pop(name)
        job_id = self.starts[1].callback_path.removeprefix("/callback/").partition(".")[0]
        self.assertEqual(
            response.headers,
            {
                "server": "jobproxy",
                "content-type": "application/json",
                "x-request-id": "mine",
                "content-location": f"/jobs/{job_id}",
                "server-timing": "queue;dur=250.000, start;dur=30.500, job;dur=1500.000",
            },
        )
        timing = held.response.headers["server-timing"]
        self.assertEqual(timing, "queue;dur=0.000, start;dur=250.000, job;dur=0.000")

    def test_timing_without_an_ack_begins_with_the_start(self) -> None:
        """B1: without an ack in time, the job's time begins with its start."""
        client = self.submit()
        self.clock.advance(2)
        self.call_back(self.starts[0], result_of("1"))
        timing = client.response.headers["server-timing"]
        self.assertEqual(timing, "queue;dur=0.000, job;dur=2000.000")
        self.starts[0].ack("1")

    def test_problem_has_the_job_and_its_path(self) -> None:
        """A problem has the job id and the path at which the job can be polled."""
        client = self.submit()
        self.starts[0].ack("17")
        self.clock.advance(30)
        problem = self.assert_problem(client.response, 504, "wait-over", started="yes")
        job_id = self.starts[0].callback_path.removeprefix("/callback/").partition(".")[0]
        named = {name: problem[name] for name in ("job", "instance", "id")}
        self.assertEqual(named, {"job": job_id, "instance": f"/jobs/{job_id}", "id": "17"})

    def test_overload_closes_the_connection(self) -> None:
        """L3: a client that cannot be held loses its connection; its next request is not read."""
        clients = [self.submit() for _ in range(3)]
        refused = self.connect().request().request()
        self.assert_problem(refused.response, 503, "overloaded")
        self.assertEqual(refused.response.headers["connection"], "close")
        self.assertFalse(refused.transport.connected)
        for number in range(3):
            self.starts[number].respond(result_of("1"))
        self.assertEqual([client.response.status for client in clients], [200] * 3)

    def test_other_problems_keep_the_connection(self) -> None:
        """L3: another problem keeps the connection open."""
        client = self.connect().request(body=b"{}")
        self.assert_problem(client.response, 400, "invalid-request")
        self.assertNotIn("connection", client.response.headers)
        self.assertTrue(client.transport.connected)
