"""Large JSON objects, which are read in steps: as small ones are, and never much at once."""

import json
from collections.abc import Generator
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.wire import large_json
from jobproxy.wire.jobs import Job, parse_job, parse_large_job
from jobproxy.wire.large_json import STRIDE, LargeObject
from jobproxy.wire.problems import ProblemError
from jobproxy.wire.reports import read_report
from jobproxy.wire.strict_json import Integer, parse_leniently
from tests.wire.test_jobs import values

Value = TypeVar("Value")

#: Members as text, so that a name can come twice.
members = st.lists(
    st.tuples(
        st.sampled_from(["account", "wait", "callback", "id", "state", "x", "\u00e9", 'q"\n']),
        values,
    ),
    max_size=5,
)
#: What is put somewhere into a text to make it wrong, or nearly so.
atoms = st.sampled_from([*' ,:"\\{}[]0-.e1\x00', "", "null", "NaN", "-Infinity", '"":0,']) | (
    st.sampled_from(["\\ud83d", "\\ude00", "\\u00", "\n\t"])
)


def write(pairs: list[tuple[str, Any]], layout: str, escaped: bool) -> str:
    written = [
        f"{json.dumps(name, ensure_ascii=escaped)}{layout}:{json.dumps(value)}"
        for name, value in pairs
    ]
    return "{" + f",{layout}".join(written) + layout + "}"


def finish(work: Generator[None, None, Value]) -> Value:
    """Run all steps."""
    while True:
        try:
            next(work)
        except StopIteration as stop:
            return stop.value


def read_all(text: str) -> dict[str, Any] | None:
    found = LargeObject(text, frozenset({"id", "state"}), is_strict=False)
    try:
        finish(found.read())
    except ProblemError:
        return None
    return found.members


def attempt(body: bytes) -> tuple[Job | None, Job | None]:
    """Return the job as each of both ways reads it; None: it is refused."""
    jobs: list[Job | None] = []
    for read in (parse_job, lambda body: finish(parse_large_job(body))):
        try:
            jobs.append(read(body))
        except ProblemError:
            jobs.append(None)
    return jobs[0], jobs[1]


class SameTests(SynchronousTestCase):
    """What is read in steps is what is read at once."""

    @given(members, st.sampled_from(["", " ", "\n\t"]), st.booleans(), st.data())
    @example([("account", "a"), ("x", "\ud83d")], "", True, None)
    def test_job_is_the_same(
        self, pairs: list[tuple[str, Any]], layout: str, escaped: bool, data: Any
    ) -> None:
        """Q31: the same requests are refused, and the same members forwarded."""
        text = write([("account", "a"), *pairs], layout, escaped)
        if data is not None:
            at = data.draw(st.integers(0, len(text)))
            text = text[:at] + data.draw(atoms) + text[at + data.draw(st.integers(0, 2)) :]
        small, large = attempt(text.encode("utf-8", "surrogatepass"))
        if small is None or large is None:
            self.assertEqual((small, large), (None, None), text)
            return
        self.assertEqual(
            (small.account, small.is_held, small.own_start),
            (large.account, large.is_held, large.own_start),
        )
        self.assertEqual(
            json.loads(b"{%b}" % small.parameters), json.loads(b"{%b}" % large.parameters)
        )

    def test_members_are_forwarded_as_they_came(self) -> None:
        """Q31: members are cut out where they are; all others stay byte for byte."""
        for text, parameters in (
            ('{"account":"a","wait":true}', '"account":"a"'),
            ('{"wait":null,"account":"\\u0061" , "x":1.50 }', '"account":"\\u0061" , "x":1.50'),
            ('{"y":[ ],"callback":"","account":"a"}', '"y":[ ],"account":"a"'),
        ):
            found = finish(parse_large_job(text.encode()))
            self.assertEqual(found.parameters, parameters.encode())

    @given(members, st.sampled_from(["", " ", "\n\t"]), st.data())
    def test_report_is_the_same(self, pairs: list[tuple[str, Any]], layout: str, data: Any) -> None:
        """Q31: the same callbacks are JSON, with the same id and state."""
        text = write(pairs, layout, escaped=True)
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(atoms) + text[at + data.draw(st.integers(0, 2)) :]
        try:
            small: dict[str, Any] | None = parse_leniently(text)
        except ProblemError:
            small = None
        large = read_all(text)
        if small is None or large is None:
            self.assertEqual((small, large), (None, None), text)
            return
        for name in ("id", "state"):
            self.assertEqual(plain(small.get(name)), plain(large.get(name)), text)


def plain(value: Any) -> Any:
    """Return what a report takes of a value: a string or an integer."""
    return value if isinstance(value, str | Integer) else type(value) in (list, dict)


def count_steps(text: str, *, is_strict: bool = True) -> int:
    """Return how many steps end until a text is read or refused."""
    work = LargeObject(text, frozenset(), is_strict=is_strict).read()
    count = 0
    while True:
        try:
            next(work)
        except (StopIteration, ProblemError):
            return count
        count += 1


@pytest.mark.parametrize(
    ("head", "unit"),
    [
        *(('{"x":[0', unit) for unit in (",[]", ",{}", ',{"a":1}', ",1", ',""', ',"\\n"', " ,0 ")),
        *(('{"x":"', unit) for unit in ("\\n", "a\\n", '\\"', "\\ud83d\\ude00", "\\u0000")),
        *(('{"x":0', unit) for unit in (',"a":1', ',"\\n":1')),
    ],
)
def test_steps_are_short_whatever_is_in_the_body(
    head: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q31: a step has a bounded number of names, values, signs and escapes."""
    monkeypatch.setattr(large_json, "STEP", 50)
    units = 65_536 // len(unit)
    assert count_steps(head + units * unit, is_strict=False) >= units // (50 * 32)


@pytest.mark.parametrize("unit", [" ", "x"])
def test_what_is_long_is_read_in_steps(unit: str) -> None:
    """Q31: a step has a bounded number of characters, too."""
    body = unit * 5 * STRIDE
    steps = count_steps(f'{{"x":{body}1}}' if unit == " " else f'{{"x":"{body}"}}')
    assert steps >= 2


def test_state_behind_a_large_value_is_read() -> None:
    """Q31: a state that comes behind a megabyte is read; what is behind much more is not."""
    for size, state in ((1_000_000, "running"), (30_000_000, None)):
        body = b'{"id":7,"data":"%b","state":"running"}' % (b"x" * size)
        report = read_report(body)
        assert (report.upstream_id, report.state, report.body) == ("7", state, body)
    report = read_report(b'{"state":"running","data":[%b0]}' % (b"0," * 2_000_000))
    assert report.is_progress
