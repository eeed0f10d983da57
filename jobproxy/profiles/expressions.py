"""Runtime expressions, as in OpenAPI's callbacks and Arazzo: ``$request.body#/account``.

An expression names one value of a message. A template is text with expressions in braces. Both are
parsed when a profile is read, so that a job costs only the reading of its values.
"""

import re
from collections.abc import Callable
from enum import Enum
from urllib.parse import quote

from attrs import field, frozen

from jobproxy.profiles.messages import Message, Scope
from jobproxy.profiles.places import BadSyntax
from jobproxy.profiles.pointers import BadPointer, parse_pointer
from jobproxy.wire.headers import HEADER_NAME

_NAME = re.compile(r"[^{}\s]+")
_CONSTANT = re.compile(r"'([^']*)'")


class Source(Enum):
    """Where a value comes from."""

    REQUEST = "$request"
    RESPONSE = "$response"
    MESSAGE = "$message"
    CALLBACK = "$callback.url"


#: What each part of a message is called in an expression.
_BODIES = {Source.REQUEST: "body", Source.RESPONSE: "body", Source.MESSAGE: "payload"}
#: The parts of each message that have names of their own.
_PARTS = {
    Source.REQUEST: ("header", "query", "path"),
    Source.RESPONSE: ("header",),
    Source.MESSAGE: ("header", "query"),
}


@frozen
class Expression:
    """One value of a message.

    :ivar text: the expression as it was written.
    :ivar source: where the value comes from.
    :ivar part: ``body``, ``header``, ``query``, ``path``, ``method``, ``status``, ``url`` or
        ``constant``.
    :ivar name: of a header, a parameter or a variable; the value of a constant.
    :ivar names: of the pointer into a body; empty: all of it.
    """

    text: str
    source: Source
    part: str
    name: str = ""
    names: tuple[str, ...] = ()
    _reader: Callable[["Expression", Message], str | None] = field(
        default=lambda _, __: None, repr=False, eq=False
    )

    def find(self, scope: Scope) -> str | None:
        """Return the value as text; :data:`None`: it is not there, or it is null."""
        if self.part == "constant":
            return self.name
        if self.source is Source.CALLBACK:
            return scope.callback_url
        message = self.find_message(scope)
        return None if message is None else self._reader(self, message)

    def find_message(self, scope: Scope) -> Message | None:
        """Return the message that the value comes from, if it is there."""
        if self.source is Source.REQUEST:
            return scope.request
        return scope.response if self.source is Source.RESPONSE else scope.message


@frozen
class Template:
    """Text with expressions in it.

    :ivar text: the template as it was written.
    :ivar parts: texts and expressions in turn.
    """

    text: str
    parts: tuple[str | Expression, ...]

    @property
    def sole(self) -> Expression | None:
        """The expression that is all of the template, if it is one."""
        only = self.parts[0] if len(self.parts) == 1 else None
        return only if isinstance(only, Expression) else None

    @property
    def expressions(self) -> tuple[Expression, ...]:
        return tuple(part for part in self.parts if isinstance(part, Expression))

    def render(self, scope: Scope) -> str | None:
        """Return the text; :data:`None`: a value is not there."""
        return self._join(scope, lambda _, value: value)

    def render_url(self, scope: Scope, wide: frozenset[str] = frozenset()) -> str | None:
        """Return the text as a URL, in which values are percent-encoded.

        :param wide: the variables of the path that may contain slashes.
        """
        if self.sole is not None:
            return self.sole.find(scope)

        def encode(expression: Expression, value: str) -> str | None:
            if value in (".", ".."):
                # It would lead to another place.
                return None
            is_wide = expression.part == "path" and expression.name in wide
            return quote(value, safe="/" if is_wide else "", errors="replace")

        return self._join(scope, encode)

    def _join(self, scope: Scope, write: Callable[[Expression, str], str | None]) -> str | None:
        written = []
        for part in self.parts:
            if isinstance(part, str):
                written.append(part)
                continue
            value = part.find(scope)
            text = None if value is None else write(part, value)
            if text is None:
                return None
            written.append(text)
        return "".join(written)


def parse_expression(text: str) -> Expression:
    """Return an expression, or a constant: ``'text'`` in quotes.

    :raises BadSyntax: if it is none.
    """
    constant = _CONSTANT.fullmatch(text)
    if constant is not None:
        return Expression(text, Source.REQUEST, "constant", constant[1])
    if text == Source.CALLBACK.value:
        return Expression(text, Source.CALLBACK, "url")
    if text == "$statusCode":
        return Expression(
            text, Source.RESPONSE, "status", reader=lambda _, message: str(message.status)
        )
    if text == "$request.method":
        return Expression(text, Source.REQUEST, "method", reader=lambda _, message: message.method)
    for source, body in _BODIES.items():
        prefix = f"{source.value}."
        if text.startswith(prefix):
            return _parse_part(text, source, body, len(prefix))
    raise BadSyntax(
        f"{text!r} is no expression; they begin with $request, $response, $message, $callback.url "
        "or $statusCode"
    )


def _parse_part(text: str, source: Source, body: str, at: int) -> Expression:
    rest = text[at:]
    if rest == body:
        return Expression(text, source, "body", reader=_read_body)
    if rest.startswith(f"{body}#"):
        at += len(body) + 1
        try:
            names = parse_pointer(text[at:])
        except BadPointer as error:
            raise BadSyntax(str(error), at) from None
        return Expression(text, source, "body", names=names, reader=_read_body)
    kind, dot, name = rest.partition(".")
    if kind not in _PARTS[source] or not dot:
        known = ", ".join((f"{body}#/…", *(f"{part}.NAME" for part in _PARTS[source])))
        raise BadSyntax(f"{text!r}: after {source.value} comes one of {known}", at)
    at += len(kind) + 1
    if not (HEADER_NAME if kind == "header" else _NAME).fullmatch(name):
        raise BadSyntax(f"{name!r} is not the name of a {kind}", at)
    return Expression(text, source, kind, name, reader=_READERS[kind])


def parse_template(text: str) -> Template:
    """Return a template. ``{{`` and ``}}`` stand for braces.

    :raises BadSyntax: if a brace is not closed, or an expression is wrong.
    """
    parts: list[str | Expression] = []
    at, plain = 0, ""
    while at < len(text):
        pair = text[at : at + 2]
        if pair in ("{{", "}}"):
            plain, at = plain + pair[0], at + 2
        elif text[at] == "}":
            raise BadSyntax("} without {", at)
        elif text[at] != "{":
            plain, at = plain + text[at], at + 1
        else:
            end = text.find("}", at)
            if end < 0:
                raise BadSyntax("{ is not closed", at)
            if plain:
                parts.append(plain)
            try:
                parts.append(parse_expression(text[at + 1 : end]))
            except BadSyntax as error:
                raise BadSyntax(str(error), at + 1 + error.at) from None
            at, plain = end + 1, ""
    if plain or not parts:
        parts.append(plain)
    return Template(text, tuple(parts))


def _read_body(expression: Expression, message: Message) -> str | None:
    return message.find_value(expression.names)


def _read_header(expression: Expression, message: Message) -> str | None:
    return message.find_header(expression.name)


def _read_parameter(expression: Expression, message: Message) -> str | None:
    return message.find_parameter(expression.name)


def _read_variable(expression: Expression, message: Message) -> str | None:
    return message.path.get(expression.name)


_READERS: dict[str, Callable[[Expression, Message], str | None]] = {
    "header": _read_header,
    "query": _read_parameter,
    "path": _read_variable,
}
