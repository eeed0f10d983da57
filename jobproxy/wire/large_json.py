"""Reads the members of a large JSON object in steps, so that nothing else has to wait for it.

To read a body of megabytes in one go takes seconds if it has many small values. Here each step is
short, whatever is in the text: strings, numbers and space are skipped by their length, and a step
has a bounded number of them.
"""

import json
import re
from collections.abc import Generator
from enum import Enum
from typing import Any

from attrs import define, field, frozen

from jobproxy.wire.problems import ProblemError
from jobproxy.wire.strict_json import LENIENT, MAX_DEPTH, STRICT, invalid

#: Bytes of a body above which it is read in steps.
LARGE = 262_144
#: Names, values and signs that are read in one step, and characters; it takes some milliseconds.
STEP, STRIDE = 4_000, 1_000_000

_SPACE = re.compile(r"[ \t\n\r]{0,1000000}")
_PLAIN_STRING = re.compile(r'"[^"\\\x00-\x1f]{0,1000000}"')
_PLAIN_PART = re.compile(r'[^"\\\x00-\x1f]{0,1000000}')
_SCALAR = r"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_SHORT_STRING = r'"[^"\\\x00-\x1f]{0,200}"'
_COMMA = r"[ \t\n\r]{0,9},[ \t\n\r]{0,9}"
_SPACES = frozenset(" \t\n\r")


@frozen
class _Grammar:
    """What a value may be.

    :param items: short items of an array, which are read many at once.
    :param decoder: of a value that is neither an array nor an object.
    """

    escapes: re.Pattern[str]
    scalar: re.Pattern[str]
    items: re.Pattern[str]
    decoder: json.JSONDecoder


def _make_grammar(escape: str, scalar: str, decoder: json.JSONDecoder) -> _Grammar:
    return _Grammar(
        re.compile(f"(?:{escape}){{1,500}}"),
        re.compile(scalar),
        re.compile(f"(?:{_COMMA}(?:{scalar}|{_SHORT_STRING})){{1,200}}"),
        decoder,
    )


#: Half a surrogate pair is no escape (RFC 7493, section 2.1).
_STRICT = _make_grammar(
    r'\\["\\/bfnrt]|\\u(?![dD][89a-fA-F])[0-9a-fA-F]{4}'
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}",
    _SCALAR,
    STRICT,
)
_LENIENT = _make_grammar(r'\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}', rf"{_SCALAR}|NaN|-?Infinity", LENIENT)


class _Next(Enum):
    """What may come next."""

    NAME = "a name"
    NAME_OR_END = "a name or }"
    COLON = "a colon"
    VALUE = "a value"
    VALUE_OR_END = "a value or ]"
    COMMA_OR_END = "a comma or the end"
    STRING = "the rest of a string"


@define(eq=False)
class LargeObject:
    """Reads a JSON object.

    :param wanted: names of members whose values are read.
    :param cut: names of members that are not among the :attr:`others`.
    :param is_strict: whether duplicate names, halves of surrogate pairs, ``NaN`` and more than
        :data:`~jobproxy.wire.strict_json.MAX_DEPTH` levels are refused, as
        :func:`~jobproxy.wire.strict_json.parse_strictly` does.
    :ivar members: the values of the wanted ones that were read so far, by name.
    :ivar places: where each member begins, where its value does, and where it ends, by name.
    """

    _text: str
    _wanted: frozenset[str]
    _cut: frozenset[str] = field(kw_only=True, default=frozenset())
    _is_strict: bool = field(kw_only=True)
    members: dict[str, Any] = field(factory=dict, init=False)
    places: dict[str, tuple[int, int, int]] = field(factory=dict, init=False, repr=False)
    _grammar: _Grammar = field(init=False)
    #: Where each run of members that are not cut begins and ends; whether the last one is open.
    _runs: list[tuple[int, int]] = field(factory=list, init=False)
    _is_run: bool = field(default=False, init=False)
    _at: int = field(default=0, init=False)
    #: What was read in this step.
    _count: int = field(default=0, init=False)
    _coming: _Next = field(default=_Next.NAME_OR_END, init=False)
    #: The names in each object that is open; None: an array.
    _open: list[set[str] | None] = field(factory=list, init=False)
    #: Where the last string began, and whether it is a name.
    _string_at: int = field(default=0, init=False)
    _is_name: bool = field(default=False, init=False)
    #: Of the member that is read: its name, where it begins, and where its value does.
    _name: str = field(default="", init=False)
    _name_at: int = field(default=0, init=False)
    _value_at: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._grammar = _STRICT if self._is_strict else _LENIENT

    def read(self) -> Generator[None, None, None]:
        """Read all members; what follows each ``yield`` is one step.

        :raises ProblemError: if the text is not a JSON object.
        """
        self._skip_space()
        if self._text[self._at : self._at + 1] != "{":
            raise invalid("The body is not a JSON object.")
        self._open_value("{")
        readers = {
            _Next.NAME: self._read_name,
            _Next.NAME_OR_END: self._read_name,
            _Next.COLON: self._read_colon,
            _Next.VALUE: self._read_value,
            _Next.VALUE_OR_END: self._read_value,
            _Next.COMMA_OR_END: self._read_comma,
            _Next.STRING: self._read_string,
        }
        mark = STRIDE
        while self._open:
            self._count += 1
            if self._count >= STEP or self._at > mark:
                yield
                self._count, mark = 0, self._at + STRIDE
            if self._coming is not _Next.STRING:
                self._skip_space()
            char = self._text[self._at : self._at + 1]
            if self._coming is _Next.STRING or char not in _SPACES:
                readers[self._coming](char)
        self._skip_space()
        if self._at != len(self._text):
            raise invalid(f"The body is not JSON: extra data at character {self._at}.")

    @property
    def others(self) -> str:
        """All members but those that are cut, as they came, with commas between them."""
        return ",".join([self._text[start:end] for start, end in self._runs])

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        assert match is not None
        self._at = match.end()

    def _read_name(self, char: str) -> None:
        if char == "}" and self._coming is _Next.NAME_OR_END:
            self._close_value()
        elif char == '"':
            self._begin_string(is_name=True)
        else:
            raise self._wrong()

    def _read_colon(self, char: str) -> None:
        if char != ":":
            raise self._wrong()
        self._at += 1
        self._coming = _Next.VALUE

    def _read_value(self, char: str) -> None:
        if len(self._open) == 1:
            self._value_at = self._at
        if char == '"':
            self._begin_string(is_name=False)
        elif char in ("{", "["):
            self._open_value(char)
        elif char == "]" and self._coming is _Next.VALUE_OR_END:
            self._close_value()
        else:
            match = self._grammar.scalar.match(self._text, self._at)
            if match is None:
                raise self._wrong()
            self._at = match.end()
            self._end_value()

    def _read_comma(self, char: str) -> None:
        is_array = self._open[-1] is None
        if char == "," and is_array:
            items = self._grammar.items.match(self._text, self._at)
            if items is not None:
                self._move(items.end())
                return
        if char == ",":
            self._at += 1
            self._coming = _Next.VALUE if is_array else _Next.NAME
        elif char == ("]" if is_array else "}"):
            self._close_value()
        else:
            raise self._wrong()

    def _open_value(self, char: str) -> None:
        if self._is_strict and len(self._open) >= MAX_DEPTH:
            raise invalid(f"The body is nested deeper than {MAX_DEPTH} levels.")
        self._open.append(set() if char == "{" else None)
        self._coming = _Next.NAME_OR_END if char == "{" else _Next.VALUE_OR_END
        self._at += 1

    def _close_value(self) -> None:
        self._open.pop()
        self._at += 1
        self._end_value()

    def _end_value(self) -> None:
        self._coming = _Next.COMMA_OR_END
        if len(self._open) != 1:
            return
        self.places[self._name] = (self._name_at, self._value_at, self._at)
        if self._name in self._wanted:
            self.members[self._name] = self._parse_value()
        if self._name in self._cut:
            self._is_run = False
        elif self._is_run:
            self._runs[-1] = (self._runs[-1][0], self._at)
        else:
            self._runs.append((self._name_at, self._at))
            self._is_run = True

    def _parse_value(self) -> Any:
        """Return the value that was read; an empty list stands for any array or object."""
        text = self._text[self._value_at : self._at]
        return [] if text[:1] in ("[", "{") else self._grammar.decoder.decode(text)

    def _begin_string(self, *, is_name: bool) -> None:
        self._string_at, self._is_name = self._at, is_name
        match = _PLAIN_STRING.match(self._text, self._at)
        if match is None:
            self._at += 1
            self._coming = _Next.STRING
        else:
            self._end_string(match.end())

    def _read_string(self, _: str) -> None:
        """Read on to the next escape, and some escapes after it."""
        match = _PLAIN_PART.match(self._text, self._at)
        assert match is not None
        self._at = match.end()
        char = self._text[self._at : self._at + 1]
        if char == '"':
            self._end_string(self._at + 1)
        elif char == "\\":
            self._read_escapes()
        elif match.end() == match.start():
            raise self._wrong()

    def _read_escapes(self) -> None:
        match = self._grammar.escapes.match(self._text, self._at)
        if match is not None:
            self._move(match.end())
        elif _LENIENT.escapes.match(self._text, self._at):
            raise invalid("The body escapes half a surrogate pair.")
        else:
            raise self._wrong()

    def _move(self, end: int) -> None:
        """Go on behind what was matched at once; that takes longer than what is plain."""
        self._count += (end - self._at) // 32
        self._at = end

    def _end_string(self, end: int) -> None:
        self._at = end
        if not self._is_name:
            self._end_value()
            return
        names = self._open[-1]
        is_outer = len(self._open) == 1
        if is_outer or self._is_strict:
            text = self._text[self._string_at : end]
            name = json.loads(text) if "\\" in text else text[1:-1]
            if is_outer:
                self._name, self._name_at = name, self._string_at
            if self._is_strict and names is not None:
                if name in names:
                    raise invalid("The body is not JSON: an object has the same member twice.")
                names.add(name)
        self._coming = _Next.COLON

    def _wrong(self) -> ProblemError:
        expected = self._coming.value
        return invalid(f"The body is not JSON: expecting {expected} at character {self._at}.")
