"""What is set in a start request: JSON values with templates in them, and where they go."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import quote, unquote_plus, urlencode

from attrs import field, frozen

from jobproxy.profiles.expressions import Expression, Source, Template
from jobproxy.profiles.messages import Message, Scope
from jobproxy.profiles.parts import find_parts
from jobproxy.profiles.pointers import (
    WrongPlace,
    add_member,
    remove_member,
    remove_value,
    set_value,
)
from jobproxy.wire.bodies import MAX_FIELDS


class MissingValue(ValueError):
    """An expression of a profile names something that the client has not sent."""


class Value(Protocol):
    """A value that is set; it may contain what the client has sent."""

    def make(self, scope: Scope) -> Any:
        """Return the value, as :func:`json.dumps` takes it.

        :raises MissingValue: if something in it is not there.
        """


@frozen
class Constant:
    """A number or a boolean.

    :param value: as :func:`json.dumps` takes it.
    """

    value: Any = field(repr=False)

    def make(self, scope: Scope) -> Any:  # noqa: ARG002 - Value's
        return self.value


@frozen
class Secret:
    """A secret out of a file."""

    value: str = field(repr=False)

    def make(self, scope: Scope) -> str:  # noqa: ARG002 - Value's
        return self.value


@frozen
class Text:
    """A template."""

    template: Template

    def make(self, scope: Scope) -> str:
        text = self.template.render(scope)
        if text is None:
            missing = [each.text for each in self.template.expressions if each.find(scope) is None]
            raise MissingValue(f"{', '.join(missing)} is not there")
        return text


@frozen
class Array:
    """An array of values."""

    items: Sequence[Value]

    def make(self, scope: Scope) -> list[Any]:
        return [item.make(scope) for item in self.items]


@frozen
class Table:
    """An object of values."""

    members: Mapping[str, Value]

    def make(self, scope: Scope) -> dict[str, Any]:
        return {name: value.make(scope) for name, value in self.members.items()}


@frozen
class Base64:
    """The base64 of the JSON of a value; of a text, of the text itself."""

    value: Value

    def make(self, scope: Scope) -> str:
        made = self.value.make(scope)
        return b64encode((made if isinstance(made, str) else _write(made)).encode()).decode()


@frozen
class Assignment:
    """A value, and where it goes: a member of the body, a parameter of the query, or a header.

    :param value: :data:`None`: what is there is removed.
    """

    target: Expression
    value: Value | None

    def make(self, scope: Scope) -> Any:
        """Return the value; :data:`None`: what is there is removed."""
        return None if self.value is None else self.value.make(scope)


def names_callback(value: object) -> bool:
    """Whether the callback URL, which is a secret, is in a value."""
    return any(each.source is Source.CALLBACK for each in find_parts(value, Expression))


def change_body(message: Message, changes: Sequence[tuple[Expression, Any]]) -> bytes:
    """Return the body of a request with other values in it; all else stays byte for byte.

    :param changes: where, and the value; :data:`None`: what is there is removed.
    :raises WrongPlace: if a value cannot be set.
    :raises ValueError: if the body is neither JSON nor a form.
    """
    if not changes:
        return message.body
    text = message.body.decode()
    if message.is_form:
        if text.count("&") >= MAX_FIELDS:
            raise ValueError(f"it has more than {MAX_FIELDS} fields")
        if any(len(target.names) != 1 for target, _ in changes):
            raise WrongPlace("a form has no objects in it")
        for target, value in changes:
            text = _change_pairs(text, target.names[0] if target.names else "", value)
        return text.encode()
    if not text.strip():
        return _change_members("{}", {}, changes).encode()
    if not message.is_object:
        raise WrongPlace("it is no object")
    # Where the members are is not needed for new ones, which are put behind them.
    are_new = not any(message.has_member(target.names[0]) for target, _ in changes)
    return _change_members(text, {} if are_new else message.members, changes).encode()


def _change_members(
    text: str,
    places: Mapping[str, tuple[int, int, int]],
    changes: Sequence[tuple[Expression, Any]],
) -> str:
    """Return the text of an object with other values in it.

    :param places: where its members are.
    """
    texts: dict[str, str | None] = {}
    for target, value in changes:
        first, *rest = target.names
        before = texts.get(first)
        if first in places and first not in texts:
            before = text[places[first][1] : places[first][2]]
        texts[first] = _change(before, rest, value)
    # From the end to the beginning, so that the places of the others stay.
    for name in sorted(texts.keys() & places.keys(), key=lambda each: -places[each][0]):
        start, at, end = places[name]
        new = texts[name]
        text = remove_member(text, start, end) if new is None else text[:at] + new + text[end:]
    for name, new in texts.items():
        if name not in places and new is not None:
            text = add_member(text, name, new)
    return text


def _change(before: str | None, names: Sequence[str], value: Any) -> str | None:
    """Return the text of a member's value with a change in it; :data:`None`: there is no member."""
    if not names:
        return None if value is None else _write(value)
    if value is None:
        return None if before is None else remove_value(before, names)
    return set_value("{}" if before is None else before, names, _write(value))


def change_query(query: str, changes: Sequence[tuple[Expression, Any]]) -> str:
    """Return a query with other parameters in it; all others stay as they came."""
    for target, value in changes:
        query = _change_pairs(query, target.name, value)
    return query


def write_header(value: Any) -> bytes:
    """Return a value as it is written in a header.

    :raises ValueError: if it cannot be in one.
    """
    text = value if isinstance(value, str) else _write(value)
    if not text.isprintable():
        raise MissingValue("A value that this proxy puts into a header has control characters")
    return text.encode("latin-1", "replace")


def _change_pairs(text: str, name: str, value: Any) -> str:
    """Return ``name=value`` pairs without those of a name, and with a new one at the end."""
    kept = [
        pair for pair in text.split("&") if pair and unquote_plus(pair.partition("=")[0]) != name
    ]
    if value is not None:
        written = value if isinstance(value, str) else _write(value)
        kept.append(urlencode({name: written}, quote_via=quote, safe=""))
    return "&".join(kept)


def _write(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
