"""Messages in which expressions find the values that were put there."""

import json
from typing import Any

from attrs import define, field

from jobproxy.profiles.expressions import Expression
from jobproxy.profiles.messages import Message
from jobproxy.profiles.pointers import Names

_TYPES = {True: "application/json", False: "text/plain; charset=utf-8"}


@define(eq=False)
class Draft:
    """A request or a response that is made value by value.

    :param status: of a response.
    :ivar tree: the body as :func:`json.dumps` takes it; a text is the body itself; :data:`None`:
        it is empty.
    :ivar query: parameters for the URL of a request.
    """

    status: int = 200
    tree: Any = field(default=None, init=False)
    headers: dict[str, str] = field(factory=dict, init=False)
    query: dict[str, str] = field(factory=dict, init=False)
    _done: set[str] = field(factory=set, init=False, repr=False)

    def put(self, expression: Expression | None, value: Any) -> None:
        """Put a value where an expression finds it; what is there already stays."""
        if expression is None or value is None or expression.text in self._done:
            return
        self._done.add(expression.text)
        if expression.part == "body":
            self.add(expression.names, value)
        elif expression.part == "header":
            self.headers[expression.name] = write(value)
        elif expression.part == "query":
            self.query[expression.name] = write(value)
        elif expression.part == "status":
            self.status = int(value)

    def add(self, names: Names, value: Any) -> None:
        """Put a value into the body."""
        self.tree = _place(self.tree, names, value)

    @property
    def body(self) -> bytes:
        return b"" if self.tree is None else write(self.tree).encode()

    def to_message(self) -> Message:
        """Return the message as the profile reads it."""
        lines = {name.lower().encode(): value.encode() for name, value in self.all_headers.items()}
        query = "&".join(f"{name}={value}" for name, value in self.query.items())
        return Message(self.body, lines, query, status=self.status)

    @property
    def all_headers(self) -> dict[str, str]:
        """The headers, with that of the body."""
        if self.tree is None:
            return self.headers
        return {"Content-Type": _TYPES[not isinstance(self.tree, str)], **self.headers}


def write(value: Any) -> str:
    """Return a text as it is, and any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _place(tree: Any, names: Names, value: Any) -> Any:
    """Return a value with another one in it; the objects and arrays on the way are made."""
    if not names:
        return value
    name, rest = names[0], names[1:]
    if tree is None:
        tree = [] if name.isdigit() else {}
    if isinstance(tree, list):
        number = int(name)
        tree += [None] * (number + 1 - len(tree))
        tree[number] = _place(tree[number], rest, value)
    elif isinstance(tree, dict):
        tree[name] = _place(tree.get(name), rest, value)
    return tree
