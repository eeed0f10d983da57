"""Large messages, which are read in steps: the same is found in them, and the same is changed."""

import json
from typing import Any
from unittest import TestCase

from hypothesis import example, given
from hypothesis import strategies as st

from jobproxy.profiles.assignments import change_body
from jobproxy.profiles.expressions import parse_expression
from jobproxy.profiles.messages import Message
from jobproxy.profiles.pointers import WrongPlace
from jobproxy.wire.problems import ProblemError

NAMES = st.sampled_from(["a", "b", "", "é", "a/b", '"'])
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=10,
)
SPACES = st.sampled_from([None, 1, "\t"])
POINTERS = st.lists(NAMES | st.sampled_from(["0", "1"]), min_size=1, max_size=3).map(tuple)


def read(body: bytes, *, is_strict: bool) -> Message:
    """Return a message that was read in steps."""
    message = Message(body)
    for _ in message.read_in_steps(is_strict=is_strict):
        pass
    return message


class LargeMessageTests(TestCase):
    @given(st.dictionaries(NAMES, VALUES), SPACES, st.booleans(), POINTERS)
    @example({"a": {"b": '"\n'}}, None, True, ("a", "b"))
    def test_the_same_is_found(self, value: Any, space: Any, is_ascii: bool, names: Any) -> None:
        body = json.dumps(value, indent=space, ensure_ascii=is_ascii).encode()
        large, plain = read(body, is_strict=True), Message(body)
        self.assertTrue(large.was_read_in_steps)
        self.assertEqual(large.find_value(names), plain.find_value(names))
        self.assertEqual(large.find_text(names), plain.find_text(names))
        self.assertEqual(large.members, plain.members)

    @given(st.dictionaries(NAMES, VALUES), SPACES, POINTERS, VALUES)
    def test_the_same_is_changed(self, value: Any, space: Any, names: Any, new: Any) -> None:
        body = json.dumps(value, indent=space).encode()
        pointer = "".join("/" + each.replace("~", "~0").replace("/", "~1") for each in names)
        changes = [(parse_expression(f"$request.body#{pointer}"), new)]

        def change(message: Message) -> bytes | str:
            try:
                return change_body(message, changes)
            except WrongPlace as error:
                return str(error)

        self.assertEqual(change(read(body, is_strict=True)), change(Message(body)))

    @given(VALUES, POINTERS, st.binary(max_size=2))
    @example([{"a": 1}], ("0", "a"), b"")
    @example({"a": 1}, ("a",), b"}")
    def test_what_is_no_object_is_read_as_any_other(
        self, value: Any, names: Any, more: bytes
    ) -> None:
        body = json.dumps(value).encode() + more
        self.assertEqual(
            read(body, is_strict=False).find_value(names), Message(body).find_value(names)
        )

    def test_what_is_not_strict_is_refused(self) -> None:
        for body in (b'{"a":1,"a":2}', b'{"a":NaN}', b"[]", b"{", b"\xff", b'{"a":"\\ud800"}'):
            with self.assertRaises(ProblemError):
                read(body, is_strict=True)
