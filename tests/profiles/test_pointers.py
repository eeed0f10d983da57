"""JSON Pointers into text: what they lead to is found and changed, and nothing else."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.profiles.assignments import change_body
from jobproxy.profiles.expressions import Expression, Source
from jobproxy.profiles.messages import Message
from jobproxy.profiles.pointers import (
    BadPointer,
    WrongPlace,
    find_value,
    list_members,
    parse_pointer,
    remove_member,
    remove_value,
    set_value,
)

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5))
NAMES = st.text(max_size=3)
#: What a value is changed to; None: it is removed.
CHANGES = st.one_of(st.none(), st.integers(0, 9))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
#: How JSON text is written: with or without space, and with escapes.
STYLES = st.fixed_dictionaries(
    {"indent": st.sampled_from([None, 1]), "ensure_ascii": st.booleans()}
)


def paths_of(value: Any) -> list[tuple[str, ...]]:
    """Return the names that lead to each value in a value."""
    found: list[tuple[str, ...]] = [()]
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(str(number), item) for number, item in enumerate(value)]
    for name, inner in pairs:
        found += [(name, *path) for path in paths_of(inner)]
    return found


def look_up(value: Any, names: tuple[str, ...]) -> Any:
    for name in names:
        value = value[int(name)] if isinstance(value, list) else value[name]
    return value


class PointerTests(SynchronousTestCase):
    """The syntax of RFC 6901."""

    def test_names_are_read(self) -> None:
        """The examples of RFC 6901, section 5."""
        for text, names in {
            "": (),
            "/foo/0": ("foo", "0"),
            "/": ("",),
            "/a~1b": ("a/b",),
            "/m~0n": ("m~n",),
            "/~01": ("~1",),
        }.items():
            self.assertEqual(parse_pointer(text), names)

    def test_what_is_no_pointer_is_refused(self) -> None:
        for text in ("a", "/~", "/~2", "/" * 40):
            self.assertRaises(BadPointer, parse_pointer, text)

    def test_of_two_members_with_one_name_the_last_counts(self) -> None:
        """As most parsers do."""
        text = '{"a": 1, "a": 2}'
        place = find_value(text, ("a",))
        assert place is not None
        self.assertEqual(text[slice(*place)], "2")

    def test_text_that_is_no_json_is_an_error(self) -> None:
        for text in ("{", '{"a"', '{"a":', '{"a" 1}', '{"b":1 "a":2}', '{"b":[}'):
            self.assertRaises(ValueError, find_value, text, ("a", "b"))
        self.assertRaises(ValueError, find_value, "[" * 100_000, ("0", "0"))


class ChangeTests(SynchronousTestCase):
    """Text with another value in it."""

    @given(OBJECTS, STYLES, st.data())
    def test_only_the_value_changes(self, value: Any, style: dict[str, Any], data: Any) -> None:
        """All that is before the value, and behind it, stays byte for byte."""
        text = json.dumps(value, **style)
        names = data.draw(st.sampled_from(paths_of(value)))
        place = find_value(text, names)
        assert place is not None
        start, end = place
        self.assertEqual(json.loads(text[start:end]), look_up(value, names))
        self.assertEqual(
            set_value(text, names, '{"new": 1}'), text[:start] + '{"new": 1}' + text[end:]
        )

    @given(OBJECTS, STYLES, NAMES, st.lists(NAMES, max_size=2))
    def test_member_is_added(
        self, value: dict[str, Any], style: dict[str, Any], name: str, more: list[str]
    ) -> None:
        """A new member is behind the others, in the objects that lead to it."""
        value.pop(name, None)
        text = json.dumps(value, **style)
        changed = set_value(text, (name, *more), '"here"')
        inner: Any = "here"
        for each in reversed(more):
            inner = {each: inner}
        self.assertEqual(json.loads(changed), {**value, name: inner})
        self.assertTrue(changed.startswith(text[:-2].rstrip("}").rstrip()))

    @given(OBJECTS, STYLES, st.data())
    def test_value_is_removed(self, value: Any, style: dict[str, Any], data: Any) -> None:
        """What is removed goes with its comma; the rest is still JSON, and the same."""
        text = json.dumps(value, **style)
        names = data.draw(st.sampled_from([*paths_of(value)[1:], ("missing", "too")]))
        changed = remove_value(text, names)
        if names in paths_of(value):
            parent = look_up(value, names[:-1])
            parent.pop(int(names[-1]) if isinstance(parent, list) else names[-1])
        else:
            self.assertEqual(changed, text)
        self.assertEqual(json.loads(changed), value)

    @given(OBJECTS, STYLES, st.data())
    def test_members_are_where_they_are_said_to_be(
        self, value: dict[str, Any], style: dict[str, Any], data: Any
    ) -> None:
        """And one of them can be removed, with its comma."""
        text = json.dumps(value, **style)
        found = list_members(text)
        self.assertEqual(list(found), list(value))
        for name, (start, at, end) in found.items():
            self.assertEqual(json.loads(text[at:end]), value[name])
            self.assertEqual(json.loads("{" + text[start:end] + "}"), {name: value[name]})
        if value:
            name = data.draw(st.sampled_from(list(value)))
            start, _, end = found[name]
            del value[name]
            self.assertEqual(json.loads(remove_member(text, start, end)), value)

    def test_array_gets_another_item(self) -> None:
        self.assertEqual(set_value('{"a":[1]}', ("a", "-"), "2"), '{"a":[1,2]}')
        self.assertEqual(set_value('{"a":[]}', ("a", "0", "url"), "2"), '{"a":[{"url":2}]}')

    def test_value_on_the_way_that_has_no_members_is_an_error(self) -> None:
        for text in ('{"a":1}', '{"a":"x"}', '{"a":[1]}', "7", '{"a":null}'):
            self.assertRaises(WrongPlace, set_value, text, ("a", "b"), "1")

    def test_long_numbers_and_escapes_stay(self) -> None:
        """Nothing is written again."""
        text = ' {"n" : 1.000e+0400,"s":"\\u00e9\\/" , "a":0}\n'
        self.assertEqual(set_value(text, ("a",), "1"), text.replace('"a":0', '"a":1'))


class BodyTests(SynchronousTestCase):
    """A body with several changes."""

    @given(OBJECTS, STYLES, st.lists(st.tuples(st.lists(NAMES, min_size=1, max_size=2), CHANGES)))
    def test_changes_are_those_of_a_parsed_object(
        self,
        value: dict[str, Any],
        style: dict[str, Any],
        changes: list[tuple[list[str], int | None]],
    ) -> None:
        """Set and removed one after another, as in a dictionary."""
        text = json.dumps(value, **style)
        targets = [
            (Expression("", Source.REQUEST, "body", names=tuple(names)), new)
            for names, new in changes
        ]
        try:
            changed = change_body(Message(text.encode()), targets)
        except WrongPlace:
            return
        for names, new in changes:
            inner: Any = value
            for name in names[:-1]:
                if new is not None and isinstance(inner, dict):
                    inner.setdefault(name, {})
                inner = inner.get(name) if isinstance(inner, dict) else None
            if isinstance(inner, dict):
                if new is None:
                    inner.pop(names[-1], None)
                else:
                    inner[names[-1]] = new
            elif isinstance(inner, list):
                return
        self.assertEqual(json.loads(changed), value)
