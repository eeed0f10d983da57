"""JSON Pointers (RFC 6901) into JSON text: where a value is, and the text with another value there.

Only what a pointer leads to is changed; every other byte stays, as the job server has to get the
numbers, the order and the white space that the client has sent.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, cast

from attrs import frozen

from jobproxy.wire.strict_json import LENIENT, write_string

#: The most names in a pointer.
MAX_NAMES = 32

#: Reads values that are skipped: fast, and numbers of any length.
_SKIPPED = json.JSONDecoder(parse_int=len)
_SPACE = re.compile(r"[ \t\n\r]*")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")

Names = Sequence[str]


class BadPointer(ValueError):
    """A text is no JSON Pointer."""


class WrongPlace(ValueError):
    """A value cannot be set: on the way there is something that has no members."""


@frozen
class _Item:
    """A member of an object, or an item of an array.

    :param start: where it begins: a member with its name.
    :param at: where its value begins.
    :param end: behind its value.
    """

    name: str
    start: int
    at: int
    end: int


def parse_pointer(text: str) -> tuple[str, ...]:
    """Return the names in a JSON Pointer.

    :raises BadPointer: if it is none.
    """
    if not text:
        return ()
    if text[0] != "/":
        raise BadPointer("a JSON Pointer begins with /")
    names = text[1:].split("/")
    if len(names) > MAX_NAMES:
        raise BadPointer(f"a JSON Pointer has {MAX_NAMES} names at most")
    if re.search(r"~(?![01])", text):
        raise BadPointer("in a JSON Pointer ~ is followed by 0 or 1")
    return tuple(name.replace("~1", "/").replace("~0", "~") for name in names)


def find_value(text: str, names: Names) -> tuple[int, int] | None:
    """Return where a value begins and ends; :data:`None`: it is not there.

    :raises ValueError: if the text is not JSON as far as it is read.
    """
    at = _skip_space(text, 0)
    for name in names:
        found = _find_item(text, at, name)
        if found is None:
            return None
        at = found.at
    return at, _find_end(text, at)


def step_into(value: Any, name: str) -> Any:
    """Return a member of an object or an item of an array; :data:`None`: it is not there."""
    if isinstance(value, dict):
        return value.get(name)
    if isinstance(value, list) and _INDEX.fullmatch(name) and int(name) < len(value):
        return value[int(name)]
    return None


def list_members(text: str) -> dict[str, tuple[int, int, int]]:
    """Return where each member of a valid object begins, where its value does, and where it ends.

    This reads the whole text once, and quickly: it may be one of a stranger.
    """
    scan, skip = cast(Any, LENIENT).scan_once, cast(Any, _SPACE.match)
    found: dict[str, tuple[int, int, int]] = {}
    at = text.index("{") + 1
    while True:
        start = skip(text, at).end()
        if text[start] == "}":
            return found
        name, at = scan(text, start)
        value_at = skip(text, skip(text, at).end() + 1).end()
        _, end = scan(text, value_at)
        found[name] = (start, value_at, end)
        at = skip(text, end).end()
        if text[at] == "}":
            return found
        at += 1


def remove_member(text: str, start: int, end: int) -> str:
    """Return the text without a member or an item, and without the comma that belongs to it.

    :param start: where it begins, and ``end`` behind its value.
    """
    behind = _skip_space(text, end)
    if text[behind] == ",":
        return text[:start] + text[_skip_space(text, behind + 1) :]
    before = text[:start].rstrip()
    return (before[:-1].rstrip() if before[-1:] == "," else text[:start]) + text[end:]


def add_member(text: str, name: str, value: str) -> str:
    """Return the text of an object with a new member at its end; nothing else is read.

    :param text: of a valid object, which has no such member.
    :param value: JSON text.
    """
    before = text[: text.rindex("}")].rstrip()
    comma = "" if before[-1:] == "{" else ","
    return f"{before}{comma}{write_string(name)}:{value}{text[len(before) :]}"


def set_value(text: str, names: Names, value: str) -> str:
    """Return the text with a value set; objects that are missing on the way are made.

    :param names: of the value; ``-`` at the end of an array appends to it.
    :param value: JSON text.
    :raises WrongPlace: if there is something on the way that has no members.
    :raises ValueError: if the text is not JSON as far as it is read.
    """
    at = _skip_space(text, 0)
    for depth, name in enumerate(names):
        found = _find_item(text, at, name)
        if found is None:
            return _add_item(text, at, name, _wrap(names[depth + 1 :], value))
        at = found.at
    return text[:at] + value + text[_find_end(text, at) :]


def remove_value(text: str, names: Names) -> str:
    """Return the text without a member or an item, and without the comma that belongs to it.

    :raises ValueError: if the text is not JSON as far as it is read.
    """
    at = _skip_space(text, 0)
    for name in names[:-1]:
        found = _find_item(text, at, name)
        if found is None:
            return text
        at = found.at
    for item in reversed(list(_read_items(text, at))):
        if item.name == names[-1]:
            text = remove_member(text, item.start, item.end)
    return text


def _wrap(names: Names, value: str) -> str:
    """Return a value in the objects that lead to it."""
    for name in reversed(names):
        value = f"{{{write_string(name)}:{value}}}"
    return value


def _add_item(text: str, at: int, name: str, value: str) -> str:
    """Return the text with a new member behind the others of an object, or an item of an array."""
    kind = text[at : at + 1]
    items = list(_read_items(text, at))
    if kind == "{":
        value = f"{write_string(name)}:{value}"
    elif kind != "[" or name not in ("-", str(len(items))):
        raise WrongPlace(f"there is no member {name!r}")
    if items:
        end = items[-1].end
        return f"{text[:end]},{value}{text[end:]}"
    return f"{text[: at + 1]}{value}{text[at + 1 :]}"


def _find_item(text: str, at: int, name: str) -> _Item | None:
    """Return the item of this name; of several members the last one, as most parsers do."""
    found = None
    if text[at : at + 1] == "[" and not _INDEX.fullmatch(name):
        return None
    for item in _read_items(text, at):
        if item.name == name:
            found = item
    return found


def _read_items(text: str, at: int) -> Iterator[_Item]:
    """Yield the members of the object, or the items of the array, that begins at a place.

    What is neither has none.
    """
    closing = {"{": "}", "[": "]"}.get(text[at : at + 1])
    if closing is None:
        return
    number = 0
    start = _skip_space(text, at + 1)
    while text[start : start + 1] != closing:
        name, value_at = str(number), start
        if closing == "}":
            name, value_at = _read_name(text, start)
        end = _find_end(text, value_at)
        yield _Item(name, start, value_at, end)
        number += 1
        behind = _skip_space(text, end)
        if text[behind : behind + 1] == closing:
            return
        if text[behind : behind + 1] != ",":
            raise ValueError(f"expecting a comma at character {behind}")
        start = _skip_space(text, behind + 1)


def _read_name(text: str, start: int) -> tuple[str, int]:
    """Return the name of a member, and where its value begins."""
    if text[start : start + 1] != '"':
        raise ValueError(f"expecting a name at character {start}")
    name, end = LENIENT.raw_decode(text, start)
    colon = _skip_space(text, end)
    if text[colon : colon + 1] != ":":
        raise ValueError(f"expecting a colon at character {colon}")
    return name, _skip_space(text, colon + 1)


def _find_end(text: str, at: int) -> int:
    """Return where the value that begins at a place ends."""
    try:
        return _SKIPPED.raw_decode(text, at)[1]
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from None


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
