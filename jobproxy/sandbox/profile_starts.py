"""Start requests of a profile's API: whether a request is one, and where its callbacks go."""

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from attrs import define, evolve, field, frozen

from jobproxy.profiles.assignments import (
    Array,
    Assignment,
    Base64,
    Table,
    Text,
    Value,
    names_callback,
)
from jobproxy.profiles.expressions import Expression, Source, Template
from jobproxy.profiles.messages import Message
from jobproxy.profiles.profile import Profile


@frozen
class FoundStart:
    """A start request.

    :param request: as the profile's expressions read the client's.
    :param callback_urls: in the order in which the profile sets them.
    """

    request: Message
    callback_urls: tuple[str, ...]


@define(eq=False)
class StartFinder:
    """Finds out which requests are starts of a profile's API."""

    _profile: Profile
    _pattern: re.Pattern[str] | None = field(init=False)
    #: What each group of the pattern is.
    _parts: tuple[Expression, ...] = field(init=False)

    def __attrs_post_init__(self) -> None:
        url = self._profile.start.url
        self._parts = () if url is None else url.expressions
        self._pattern = None if url is None else _make_pattern(url, self._profile.path.wide)

    @property
    def names_callback(self) -> bool:
        """Whether start requests say where callbacks go."""
        values = [each.value for each in self._profile.start.changes]
        return names_callback([*values, *self._parts])

    def matches(self, target: str) -> bool:
        """Whether start requests go to a target of a request."""
        return self._pattern is None or self._pattern.fullmatch(target) is not None

    def find(self, message: Message, target: str) -> FoundStart:
        """Return the start request in a request whose target matches."""
        match = None if self._pattern is None else self._pattern.fullmatch(target)
        values = () if match is None else [unquote(text) for text in match.groups()]
        found = list(zip(self._parts, values, strict=True))
        path = {part.name: value for part, value in found if part.part == "path"}
        urls = [value for part, value in found if part.source is Source.CALLBACK]
        for change in self._profile.start.changes:
            urls += _find_urls(change, message)
        return FoundStart(evolve(message, path=path), tuple(urls))


def _make_pattern(url: Template, wide: str | None) -> re.Pattern[str]:
    """Return a pattern of the targets that a URL template leads to."""
    written, is_first, has_query = "", True, False
    for part in url.parts:
        if isinstance(part, str):
            text = part
            if is_first:
                parts = urlsplit(part)
                text = (parts.path or "/") + (f"?{parts.query}" if "?" in part else "")
            has_query = has_query or "?" in text
            written += re.escape(text)
        elif part.part == "path" and part.name == wide:
            written += "([^?]+)"
        else:
            written += "([^&]*)" if has_query else "([^/?]+)"
        is_first = False
    return re.compile(written + (r"(?:&.*)?" if has_query else r"(?:\?.*)?"))


def _find_urls(change: Assignment, message: Message) -> Iterator[str]:
    """Yield the callback URLs in what a profile sets."""
    if change.value is None or not names_callback(change.value):
        return
    target = change.target
    if target.part == "body":
        text = message.find_text(target.names)
        # In a form an array or a table is JSON in a text.
        given: Any = None if text is None else json.loads(text)
    elif target.part == "query":
        given = parse_qs(message.query).get(target.name, [None])[0]
    else:
        given = message.find_header(target.name)
    if isinstance(given, str) and not isinstance(change.value, Text | Base64):
        given = json.loads(given)
    yield from _walk(change.value, given)


def _walk(value: Value, given: Any) -> Iterator[str]:
    """Yield the URLs where a value that was set has them."""
    if not names_callback(value):
        return
    if isinstance(value, Array) and isinstance(given, list):
        for item, one in zip(value.items, given, strict=False):
            yield from _walk(item, one)
    elif isinstance(value, Table) and isinstance(given, dict):
        for name, member in value.members.items():
            yield from _walk(member, given.get(name))
    elif isinstance(value, Base64) and isinstance(given, str):
        text = b64decode(given).decode()
        inner = value.value
        yield from _walk(inner, text if isinstance(inner, Text) else json.loads(text))
    elif isinstance(value, Text) and isinstance(given, str):
        first = value.template.parts[0]
        yield given[len(first) :] if isinstance(first, str) else given
