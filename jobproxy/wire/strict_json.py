"""A strict JSON parser that can return the members of an object as text, unchanged.

The job server has to read the same values from a request as jobproxy does. So clients' requests
must conform to RFC 8259, and to RFC 7493 for duplicate names and lone surrogates. Numbers and
strings are never encoded again: the text that came is sent.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from jobproxy.wire.problems import Kind, Problem, ProblemError

MAX_DEPTH = 64

_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"{}[]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SPACE = re.compile(r"[ \t\n\r]*")
#: A member of an object in which there are neither arrays, other objects nor escapes.
_FLAT_MEMBER = re.compile(r'("([^"]*)"[ \t\n\r]*:[ \t\n\r]*(?:"[^"]*"|[^ \t\n\r,}"]+))')


class Integer(str):
    """An integer as it was written."""

    __slots__ = ()


def decode(body: bytes) -> str:
    """Return a body as text.

    :raises ProblemError: if it is not UTF-8 without a byte order mark, or nested too deeply.
    """
    text = decode_text(body)
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _is_too_deep(body):
        raise invalid(f"The body is nested deeper than {MAX_DEPTH} levels.")
    return text


def decode_text(body: bytes) -> str:
    """Return a body as text, however deeply it is nested.

    :raises ProblemError: if it is not UTF-8 without a byte order mark.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise invalid(f"The body is not UTF-8: byte {error.start} is wrong.") from error
    if text[:1] == "\ufeff":
        raise invalid("The body starts with a byte order mark, which JSON does not allow.")
    return text


def parse_strictly(text: str) -> dict[str, Any]:
    """Return the members of an object.

    :raises ProblemError: if the text is not strict JSON, or not an object.
    """
    try:
        members = _parse(text, STRICT)
        if "\\" in text and _SURROGATE.search(text):
            json.dumps(members, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise invalid("The body escapes half a surrogate pair.") from error
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body is not JSON: {_explain(error)}.") from error
    return _check_object(members)


def parse_leniently(text: str) -> dict[str, Any]:
    """Return the members of an object; of duplicate names the last one.

    :raises ProblemError: if the text is not JSON, or not an object.
    """
    try:
        members = _parse(text, LENIENT)
    except (ValueError, RecursionError) as error:
        raise invalid(f"The body is not JSON: {_explain(error)}.") from error
    return _check_object(members)


def split_members(text: str) -> Iterable[tuple[str, str]]:
    """Return for each member of a valid JSON object its text, ``"name": value``, and its name."""
    is_flat = "[" not in text and "\\" not in text and text.count("{") == 1
    return _FLAT_MEMBER.findall(text) if is_flat else _split_any_members(text)


def write_string(text: str) -> str:
    """Return a string as JSON; fast if nothing has to be escaped, as is usual."""
    is_plain = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
    return f'"{text}"' if is_plain else json.dumps(text)


def invalid(detail: str) -> ProblemError:
    """Return the error of a body that is not acceptable JSON."""
    return ProblemError(Problem(Kind.INVALID_JSON, detail))


def _parse(text: str, decoder: json.JSONDecoder) -> Any:
    """Do what ``decoder.decode`` does, but faster if there is no space around the value."""
    if text[:1] == "{":
        members, end = decoder.raw_decode(text)
        if end == len(text):
            return members
    return decoder.decode(text)


def _check_object(members: Any) -> dict[str, Any]:
    if not isinstance(members, dict):
        raise invalid("The body is JSON, but not an object.")
    return members


def _is_too_deep(body: bytes) -> bool:
    # Every step reads the body once. A regular expression would read what follows an unclosed
    # string again from each quote in it.
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(unescaped.split(b'"')[::2]).translate(None, _NO_BRACKETS)
    depth = 0
    for bracket in brackets:
        depth += 1 if bracket in b"{[" else -1
        if depth > MAX_DEPTH:
            return True
    return False


def _explain(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg[0].lower()}{error.msg[1:]} at character {error.pos}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has the same member twice")
    return members


# Of a number only its type matters. Its length stands for its value: to convert a long number takes
# time, and Python refuses one of more than 4,300 digits.
_NUMBERS: dict[str, Any] = {"parse_int": len, "parse_float": len}
STRICT = json.JSONDecoder(
    parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates, **_NUMBERS
)
#: Integers are read as text, as the id of a job may be one.
LENIENT = json.JSONDecoder(parse_int=Integer, parse_float=len)


def _split_any_members(text: str) -> Iterator[tuple[str, str]]:
    at = text.index("{")
    while True:
        start = _skip_space(text, at + 1)
        if text[start] == "}":
            return
        name, at = LENIENT.raw_decode(text, start)
        colon = _skip_space(text, at)
        _, end = LENIENT.raw_decode(text, _skip_space(text, colon + 1))
        yield text[start:end], name
        at = _skip_space(text, end)
        if text[at] == "}":
            return


def _skip_space(text: str, at: int) -> int:
    if text[at] not in " \t\n\r":
        return at
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
