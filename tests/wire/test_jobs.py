"""Wire values: what is read is what was written."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire.jobs import parse_job, parse_report
from jobproxy.wire.problems import Kind, ProblemError
from jobproxy.wire.strict_json import MAX_DEPTH
from tests.support.problems import refuses

URL = "http://proxy.example/callback/handle.mac"

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
    """Requests of clients, and the starts that are made of them."""

    @given(accounts, st.dictionaries(text, values, max_size=4), layouts, st.booleans())
    def test_start_has_the_clients_members(
        self, account: str, others: dict[str, Any], indent: int | str | None, escaped: bool
    ) -> None:
        """A start holds every member of the client's, as it was, but for wait and callback."""
        members = {**others, "wait": True, "account": account}
        body = json.dumps(members, indent=indent, ensure_ascii=escaped).encode()
        job = parse_job(body)
        self.assertEqual(job.account, account)
        start = json.loads(job.to_start(URL))
        self.assertEqual(start, {**members, "wait": False, "callback": URL})

    def test_numbers_stay_as_written(self) -> None:
        """No number is read and written again: neither its digits nor its form change."""
        job = parse_job(b'{"account":"a","x":[1.10,1E400,-0.0,12345678901234567890123,1e-07]}')
        self.assertIn(b'"x":[1.10,1E400,-0.0,12345678901234567890123,1e-07]', job.to_start(URL))

    def test_hidden_members_are_found(self) -> None:
        """A callback of the client's is not forwarded, in whatever way its name is written."""
        job = parse_job(b'{"\\u0063allback":"x","account":"a","\\u0077ait":true}')
        self.assertEqual(
            job.to_start(URL), b'{"account":"a","wait":false,"callback":"%s"}' % URL.encode()
        )

    def test_depth_is_that_of_structure(self) -> None:
        """Brackets in strings are not depth, and neither is length."""
        flat = {"account": "a", "x": "[{" * 100 + '\\"', "y": [[] for _ in range(100)]}
        parse_job(json.dumps(flat).encode())

    def test_depth_is_bounded(self) -> None:
        """As many levels as are allowed are read, and one more is not."""
        inner = MAX_DEPTH - 1
        parse_job(b'{"account":"a","x":' + b"[" * inner + b"]" * inner + b"}")
        with refuses(Kind.INVALID_JSON):
            parse_job(b'{"account":"a","x":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}")

    def test_whole_surrogate_pairs_are_read(self) -> None:
        """A surrogate pair that is whole is a character."""
        self.assertEqual(parse_job(b'{"account":"\\uD83D\\ude00"}').account, "\N{GRINNING FACE}")

    def test_secrets_are_not_shown(self) -> None:
        """The account and the parameters are not in what is logged of a job."""
        self.assertNotIn("alice", repr(parse_job(b'{"account":"alice"}')))

    @given(st.text(st.characters(codec="utf-8"), max_size=300))
    def test_accounts(self, account: str) -> None:
        """Q2: of all strings, those of 1 to 254 characters without control characters are taken."""
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
    def test_anything_is_answered(self, body: bytes) -> None:
        """Q1: whatever the bytes are, they are a job or a problem."""
        for parse in (parse_job, parse_report):
            try:
                parse(body)
            except ProblemError:
                continue


class OwnCallbackTests(SynchronousTestCase):
    """Q4: jobs whose clients want to be called back themselves."""

    @given(st.dictionaries(text, values, max_size=4), layouts)
    def test_start_is_the_body(self, others: dict[str, Any], indent: int | str | None) -> None:
        """Q4: where that is allowed, the start is what the client sent, byte for byte."""
        members = {**others, "account": "a", "wait": False, "callback": "http://client.example/"}
        body = json.dumps(members, indent=indent).encode()
        job = parse_job(body, allows_callbacks=True)
        self.assertEqual((job.account, job.is_held), ("a", False))
        self.assertEqual(job.to_start(URL), body)

    def test_refused(self) -> None:
        """Q4: where it is not, no callback of any form is let through."""
        for body in (
            b'{"account":"a","wait":false,"callback":"http://client.example/"}',
            b'{"\\u0063allback":"x","account":"a","wait":false}',
            b'{"account":"a","wait":false,"callback":null}',
        ):
            with refuses(Kind.CALLBACK_NOT_ALLOWED):
                parse_job(body)

    def test_only_without_waiting(self) -> None:
        """Q4: a client that waits has no callback, whether it could have one or not."""
        for wait in (b"", b',"wait":true'):
            body = b'{"account":"a","callback":"http://client.example/"%b}' % wait
            for allows_callbacks in (True, False):
                job = parse_job(body, allows_callbacks=allows_callbacks)
                self.assertTrue(job.is_held)
                self.assertEqual(json.loads(job.to_start(URL))["callback"], URL)

    def test_not_a_job(self) -> None:
        """Q2, Q4: what is passed through is a job too, else it is refused."""
        for body in (b'{"wait":false,"callback":"x"}', b'{"account":"","wait":false,"callback":1}'):
            with refuses(Kind.INVALID_REQUEST):
                parse_job(body, allows_callbacks=True)

    def test_no_callback(self) -> None:
        """Q3: a client that does not wait and names no callback has ours."""
        job = parse_job(b'{"account":"a","wait":false,"n":1}', allows_callbacks=True)
        self.assertFalse(job.is_held)
        self.assertEqual(
            job.to_start(URL), b'{"account":"a","n":1,"wait":false,"callback":"%b"}' % URL.encode()
        )


class ReportTests(SynchronousTestCase):
    """Acks and callbacks."""

    def test_style_is_not_judged(self) -> None:
        """A result is read although a client's request could not be written like it."""
        report = parse_report(b'{"id":"1","state":"completed","x":NaN,"x":"\\ud800"}')
        self.assertEqual((report.upstream_id, report.state), ("1", "completed"))

    def test_odd_members_count_as_missing(self) -> None:
        """An id or a state of another type, or an endless id, is none."""
        for body in (
            b'{"id":1,"state":2}',
            b'{"id":"","state":null}',
            b'{"id":"%s"}' % (b"x" * 129),
        ):
            report = parse_report(body)
            self.assertEqual((report.upstream_id, report.state), (None, None))

    def test_what_ends_a_job(self) -> None:
        """An unknown state ends a job in a callback (S14: but not in an ack)."""
        for state, is_progress, is_ended in (
            ("running", True, False),
            ("queued", True, False),
            ("pending", True, False),
            ("completed", False, True),
            ("failed", False, True),
            ("splendid", False, False),
        ):
            report = parse_report(json.dumps({"state": state}).encode())
            self.assertEqual((report.is_progress, report.is_ended), (is_progress, is_ended), state)
