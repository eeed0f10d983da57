"""What it costs to read a body before it is trusted: bounded by its size, whatever is in it."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire.jobs import parse_job
from jobproxy.wire.preferences import parse_preferences
from jobproxy.wire.problems import ProblemError
from jobproxy.wire.reports import read_report

SIZE = 65_536
#: How many times as much as an ordinary job a body of the same size may cost.
BOUND = 20.0
PLAIN = b'{"account":"a",%s}' % b",".join(
    b'"name %d":"value %d"' % (number, number) for number in range(SIZE // 26)
)

Read = Callable[[bytes], object]


def read_headers(value: bytes) -> object:
    for name in (b"prefer", b"idempotency-key", b"traceparent", b"tracestate"):
        parse_preferences([(name, value[:16_384])])
    return None


READERS: dict[str, Read] = {
    "job": parse_job,
    "ack or callback": read_report,
    "headers": read_headers,
}
#: What is repeated, after what a body begins with.
WORST = [
    ('"', '\\"'),
    ('{"account":"a","x":"', "\\\\"),
    ("", "["),
    ("", '{"":'),
    ('{"account":"a","x":[0', ",[]"),
    ('{"account":"a","x":[0', ",{}"),
    ('{"account":"a","x":[0', ',{"a":1}'),
    ('{"account":"a","x":[0', ",1"),
    ('{"account":"a","x":', "9"),
    ('{"account":"a","x":0.', "9"),
    ('{"account":"a","x":1e', "9"),
    ('{"account":"a"', " "),
    ('{"account":"a","x":["\\ud83d"', ',"\\n"'),
    ('{"account":"a","x":["\\n"', ',"wait"'),
    ('{"account":"a","\\n":1', ',"wait":true'),
    ('"', '",'),
    ("a=", '"\\'),
]
ATOMS = [
    "\\",
    '"',
    '\\"',
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "1",
    ".",
    "e",
    " ",
    "a",
    '"a":1',
    "\\ud83d",
]


def measure(read: Read, body: bytes) -> float:
    """Return the seconds of CPU time that it takes to read a body."""
    began = time.process_time()
    with contextlib.suppress(ProblemError):
        read(body)
    return time.process_time() - began


def find_ratio(read: Read, body: bytes) -> float:
    """Return how many times as much as an ordinary job a body costs, at the least.

    Other load can only make a time longer, so the least of several counts.
    """
    least, least_plain = measure(read, body), measure(parse_job, PLAIN)
    for _ in range(20):
        if least < BOUND / 2 * least_plain:
            break
        least, least_plain = (
            min(least, measure(read, body)),
            min(least_plain, measure(parse_job, PLAIN)),
        )
    return least / least_plain


def repeat(head: str, unit: str) -> bytes:
    return (head + unit * ((SIZE - len(head)) // len(unit))).encode()[:SIZE]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("case", range(len(WORST)))
def test_no_body_costs_much_more_than_an_ordinary_one(case: int, reader: str) -> None:
    """Q25: no body costs more than twenty times what an ordinary job of its size costs."""
    head, unit = WORST[case]
    for tail in (b"", b"}", b"]}"):
        assert find_ratio(READERS[reader], repeat(head, unit) + tail) < BOUND


class PatternTests(SynchronousTestCase):
    @given(
        reader=st.sampled_from(sorted(READERS)),
        head=st.sampled_from(["", '"', "{", '{"account":"a","x":', '{"account":"a","x":"']),
        unit=st.lists(st.sampled_from(ATOMS), min_size=1, max_size=6).map("".join),
    )
    @settings(max_examples=150, deadline=None)
    def test_no_pattern_costs_much_more_than_an_ordinary_body(
        self, reader: str, head: str, unit: str
    ) -> None:
        """Q25: nor does any pattern, repeated as often as the body may be long."""
        self.assertLess(find_ratio(READERS[reader], repeat(head, unit)), BOUND)


def test_many_members_cost_no_more_than_ordinary_ones() -> None:
    """Q25: nor do many different members, of which some have escapes."""
    members = ",".join(f'"{number}":1' for number in range(7_000))
    for first in ('"x":1', '"x":"\\n"', '"x":{}'):
        body = f'{{"account":"a",{first},{members}}}'.encode()
        assert find_ratio(parse_job, body) < BOUND


@pytest.mark.parametrize("number", ["9" * 60_000, "-0." + "9" * 60_000, "1" + "0" * 60_000 + "E-5"])
def test_number_of_any_length_is_sent_as_it_came(number: str) -> None:
    """Q1: a number of any length is a number, and is sent as it came."""
    job: Any = parse_job(f'{{"account":"a","x":{number}}}'.encode())
    assert f'"x":{number},'.encode() in job.to_start("http://proxy.example").body
    report = read_report(f'{{"id":"1","state":"completed","x":{number}}}'.encode())
    assert report.upstream_id == "1"
