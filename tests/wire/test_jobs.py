"""Jobs, start requests, acks and callbacks as bytes."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire.jobs import parse_job
from jobproxy.wire.problems import Kind, ProblemError
from jobproxy.wire.reports import read_report
from jobproxy.wire.strict_json import MAX_DEPTH
from tests.support.problems import refuses

URL = "http://proxy.example/callback/job-id.mac"

text = st.text(st.characters(codec="utf-8"))
accounts = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"]), min_size=1, max_size=254
)
values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
layouts = st.sampled_from([None, 1, "\t"])


class JobTests(SynchronousTestCase):
    """Requests of clients, and the start requests that are made of them."""

    @given(accounts, st.dictionaries(text, values, max_size=4), layouts, st.booleans())
    def test_start_request_has_all_other_members_of_the_client(
        self, account: str, others: dict[str, Any], indent: int | str | None, escaped: bool
    ) -> None:
        """A start request has all members of the client, unchanged, except wait and callback."""
        members = {**others, "wait": True, "account": account}
        body = json.dumps(members, indent=indent, ensure_ascii=escaped).encode()
        job = parse_job(body)
        self.assertEqual(job.account, account)
        start = json.loads(job.to_start(URL).body)
        self.assertEqual(start, {**members, "wait": False, "callback": URL})

    def test_numbers_stay_as_written(self) -> None:
        """Numbers are copied as text: neither their digits nor their form change."""
        job = parse_job(b'{"account":"a","x":[1.10,1E400,-0.0,12345678901234567890123,1e-07]}')
        self.assertIn(
            b'"x":[1.10,1E400,-0.0,12345678901234567890123,1e-07]', job.to_start(URL).body
        )

    def test_escaped_names_are_recognized(self) -> None:
        """A client's callback is not forwarded, however its name is escaped."""
        job = parse_job(b'{"\\u0063allback":"x","account":"a","\\u0077ait":true}')
        self.assertEqual(
            job.to_start(URL).body, b'{"account":"a","wait":false,"callback":"%s"}' % URL.encode()
        )

    def test_brackets_in_strings_are_no_nesting(self) -> None:
        """Brackets in strings are no nesting, and neither is length."""
        flat = {"account": "a", "x": "[{" * 100 + '\\"', "y": [[] for _ in range(100)]}
        parse_job(json.dumps(flat).encode())

    def test_nesting_is_limited(self) -> None:
        """The maximum depth is accepted, and one level more is not."""
        inner = MAX_DEPTH - 1
        parse_job(b'{"account":"a","x":' + b"[" * inner + b"]" * inner + b"}")
        with refuses(Kind.INVALID_JSON):
            parse_job(b'{"account":"a","x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}")

    def test_whole_surrogate_pair_is_a_character(self) -> None:
        """A whole surrogate pair is a character."""
        self.assertEqual(parse_job(b'{"account":"\\uD83D\\ude00"}').account, "\N{GRINNING FACE}")

    def test_repr_has_no_account(self) -> None:
        """The repr of a job has neither the account nor other members."""
        self.assertNotIn("alice", repr(parse_job(b'{"account":"alice"}')))

    @given(st.text(st.characters(codec="utf-8"), max_size=300))
    def test_account_has_1_to_254_characters_without_controls(self, account: str) -> None:
        """Q2: an account has 1 to 254 characters, none of them a control character."""
        is_good = 1 <= len(account) <= 254 and not any(
            ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in account
        )
        body = json.dumps({"account": account}).encode()
        if is_good:
            self.assertEqual(parse_job(body).account, account)
        else:
            with refuses(Kind.INVALID_REQUEST) as caught:
                parse_job(body)
            self.assertEqual([f.pointer for f in caught.problem.errors], ["/account"])

    @given(st.binary(max_size=60) | text.map(str.encode))
    def test_any_bytes_are_a_job_or_a_problem(self, body: bytes) -> None:
        """Q1: any bytes are a job or a problem."""
        for parse in (parse_job, read_report):
            try:
                parse(body)
            except ProblemError:
                continue


class OwnCallbackTests(SynchronousTestCase):
    """Q4: jobs whose clients name a callback URL of their own."""

    @given(st.dictionaries(text, values, max_size=4), layouts)
    def test_body_is_passed_through_where_callbacks_are_allowed(
        self, others: dict[str, Any], indent: int | str | None
    ) -> None:
        """Q4: where callbacks are allowed, the start request is the client's whole body."""
        members = {**others, "account": "a", "wait": False, "callback": "http://client.example/"}
        body = json.dumps(members, indent=indent).encode()
        job = parse_job(body, allows_callbacks=True)
        self.assertEqual((job.account, job.is_held), ("a", False))
        self.assertEqual(job.to_start(URL).body, body)

    def test_callback_is_refused_where_it_is_not_allowed(self) -> None:
        """Q4: where callbacks are not allowed, one is refused in any form."""
        for body in (
            b'{"account":"a","wait":false,"callback":"http://client.example/"}',
            b'{"\\u0063allback":"x","account":"a","wait":false}',
            b'{"account":"a","wait":false,"callback":7}',
        ):
            with refuses(Kind.CALLBACK_NOT_ALLOWED):
                parse_job(body)

    def test_callback_of_a_client_that_waits_is_ignored(self) -> None:
        """Q4: the callback of a client that waits is ignored, allowed or not."""
        for wait in (b"", b',"wait":true'):
            body = b'{"account":"a","callback":"http://client.example/"%b}' % wait
            for allows_callbacks in (True, False):
                job = parse_job(body, allows_callbacks=allows_callbacks)
                self.assertTrue(job.is_held)
                self.assertEqual(json.loads(job.to_start(URL).body)["callback"], URL)

    def test_body_that_is_passed_through_has_to_be_a_job(self) -> None:
        """Q2, Q4: a body that is passed through has to be a valid job too."""
        for body in (b'{"wait":false,"callback":"x"}', b'{"account":"","wait":false,"callback":1}'):
            with refuses(Kind.INVALID_REQUEST):
                parse_job(body, allows_callbacks=True)

    def test_client_that_does_not_wait_gets_our_callback_url(self) -> None:
        """Q3: a client that neither waits nor names a callback has our callback URL."""
        job = parse_job(b'{"account":"a","wait":false,"n":1}', allows_callbacks=True)
        self.assertFalse(job.is_held)
        self.assertEqual(
            job.to_start(URL).body,
            b'{"account":"a","n":1,"wait":false,"callback":"%b"}' % URL.encode(),
        )


class ReportTests(SynchronousTestCase):
    """Acks and callbacks."""

    def test_callback_may_have_nan_and_duplicate_members(self) -> None:
        """A callback may have what is refused in a client's request."""
        report = read_report(b'{"id":"1","state":"completed","x":NaN,"x":"\\ud800"}')
        self.assertEqual((report.upstream_id, report.state), ("1", "completed"))

    def test_id_or_state_of_another_type_counts_as_missing(self) -> None:
        """An id or a state of another type, or an id that is too long, counts as missing."""
        for body in (
            b'{"id":1.5,"state":2}',
            b'{"id":"","state":null}',
            b'{"id":"%s"}' % (b"x" * 129),
        ):
            report = read_report(body)
            self.assertEqual((report.upstream_id, report.state), (None, None))

    def test_known_states_are_progress_or_the_end(self) -> None:
        """S14: a state is progress, the end, or unknown, which ends no job in an ack."""
        for state, is_progress, is_ended in (
            ("running", True, False),
            ("queued", True, False),
            ("pending", True, False),
            ("completed", False, True),
            ("failed", False, True),
            ("splendid", False, False),
        ):
            report = read_report(json.dumps({"state": state}).encode())
            self.assertEqual((report.is_progress, report.is_ended), (is_progress, is_ended), state)
