"""What expressions read: the client's request, the ack, and the callback or what a poll brought."""

import json
import sys
from collections.abc import Generator, Mapping
from typing import Any

from attrs import define, field, frozen

from jobproxy.profiles.pointers import Names, find_value, list_members, step_into
from jobproxy.wire import strict_json
from jobproxy.wire.bodies import is_form, read_pairs, read_text
from jobproxy.wire.headers import HeaderSource
from jobproxy.wire.large_json import LARGE, LargeObject
from jobproxy.wire.problems import ProblemError

#: Bytes that it takes to know where a member of a body is.
MEMBER_SIZE = 300
_TEXTS = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


@define(eq=False)
class Message:
    """A request or a response.

    :param headers: by lower-case name; of several with one name, the last one.
    :param query: of the request's target, without the question mark.
    :param path: the variables in the request's path.
    :param status: of a response.
    """

    body: bytes = field(repr=False)
    headers: Mapping[bytes, bytes] = field(factory=dict, repr=False)
    query: str = field(default="", repr=False)
    path: Mapping[str, str] = field(factory=dict, repr=False)
    method: str = "POST"
    status: int = 200
    _text: str | None = field(default=None, init=False, repr=False)
    _members: dict[str, tuple[int, int, int]] | None = field(default=None, init=False, repr=False)
    #: The body as JSON; numbers are texts. ``...``: it was not read yet; None: it is none.
    _tree: Any = field(default=..., init=False, repr=False)

    def compact(self) -> "Message":
        """Return the message as it came, to be kept: what was parsed of it takes many times that.

        Where the members of a large body are stays known.
        """
        kept = Message(self.body, self.headers, self.query, self.path, self.method, self.status)
        if self.is_large and self.was_read_in_steps:
            kept._text, kept._members = self._text, self._members
        return kept

    @property
    def packed(self) -> bytes:
        """The message for another node, which :func:`unpack_message` reads."""
        pairs = (
            (name.decode("latin-1"), of.decode("latin-1")) for name, of in self.headers.items()
        )
        return json.dumps([self.method, self.query, dict(pairs)]).encode() + b"\n" + self.body

    @property
    def size(self) -> int:
        """About how many bytes a message takes that is compact."""
        pairs = (*self.headers.items(), *self.path.items())
        size = len(self.body) + len(self.query) + sum(len(name) + len(of) for name, of in pairs)
        if self._text is not None:
            size += sys.getsizeof(self._text)
        return size + MEMBER_SIZE * len(self._members or ())

    @property
    def content_type(self) -> bytes:
        return self.headers.get(b"content-type", b"")

    @property
    def is_form(self) -> bool:
        """Whether the body is a form (``application/x-www-form-urlencoded``)."""
        return is_form(self.content_type)

    @property
    def coding(self) -> bytes:
        """How the body is compressed; empty: it is not."""
        coding = self.headers.get(b"content-encoding", b"").lower()
        return b"" if coding == b"identity" else coding

    @property
    def text(self) -> str:
        """The body as text, decompressed; what is not UTF-8 in it is replaced."""
        if self._text is None:
            self._text = read_text(self.body, self.coding)
        return self._text

    def find_header(self, name: str) -> str | None:
        """Return the value of a header, if there is one."""
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    def find_parameter(self, name: str) -> str | None:
        """Return the first value of a parameter in the query, if there is one."""
        return dict(reversed(read_pairs(self.query))).get(name)

    def find_text(self, names: Names) -> str | None:
        """Return the text of a value in the body, as it came; :data:`None`: it is not there."""
        if not names:
            return self.text
        if self.is_form:
            found = self._find_field(names)
            return None if found is None else json.dumps(found)
        text = self.text
        if self.was_read_in_steps:
            _, at, end = self.members.get(names[0], (0, 0, 0))
            text, names = text[at:end], names[1:]
        try:
            place = find_value(text, names) if text else None
        except ValueError:
            return None
        return None if place is None else text[place[0] : place[1]]

    def find_value(self, names: Names) -> str | None:
        """Return a value in the body as text: a string without its quotes; null is nothing."""
        if names and self.is_form:
            return self._find_field(names)
        if not names:
            return self.text
        if self.was_read_in_steps:
            text = self.find_text(names) or "null"
            return json.loads(text) if text[0] == '"' else None if text == "null" else text
        value = self.tree
        for name in names:
            value = step_into(value, name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool):
            return "true" if value else "false"
        # The text of an object or an array, which has to be found in the body.
        return self.find_text(names)

    def read_in_steps(self, *, is_strict: bool) -> Generator[None, None, None]:
        """Find the members of a large body in steps, so that nothing else has to wait for that.

        :param is_strict: whether a body that is no object in strict JSON is refused.
        :raises ProblemError: if it is refused.
        """
        text = strict_json.decode_text(self.body) if is_strict else self.text
        found = LargeObject(text, frozenset(), is_strict=is_strict)
        try:
            yield from found.read()
        except ProblemError:
            if is_strict:
                raise
        else:
            self._text, self._members = text, found.places

    @property
    def is_large(self) -> bool:
        """Whether the body should be read in steps."""
        return len(self.body) > LARGE and not self.is_form

    @property
    def was_read_in_steps(self) -> bool:
        """Whether it is known where the members are, and nothing else of the body."""
        return self._members is not None and self._tree is ...

    @property
    def is_object(self) -> bool:
        """Whether the body is an object in JSON."""
        return self.was_read_in_steps or isinstance(self.tree, dict)

    def has_member(self, name: str) -> bool:
        """Whether the body, which must be an object, has a member of this name."""
        return name in (self.members if self.was_read_in_steps else self.tree)

    @property
    def members(self) -> dict[str, tuple[int, int, int]]:
        """Where each member of the body is, which must be an object."""
        if self._members is None:
            self._members = list_members(self.text)
        return self._members

    @property
    def tree(self) -> Any:
        """The body as JSON, whose numbers are texts as they came; :data:`None`: it is none."""
        if self._tree is ...:
            try:
                self._tree = _TEXTS.decode(self.text)
            except (ValueError, RecursionError):
                self._tree = None
        return self._tree

    def has_twice(self, expression: Any) -> bool:
        """Whether a field of a form that an expression names is there twice."""
        names = [name for name, _ in read_pairs(self.text)]
        return expression.part == "body" and names.count("".join(expression.names[:1])) > 1

    def _find_field(self, names: Names) -> str | None:
        if len(names) != 1:
            return None
        return dict(reversed(read_pairs(self.text))).get(names[0])


def unpack_message(packed: bytes) -> Message:
    """Return a callback that another node has received; see :attr:`Message.packed`."""
    head, _, body = packed.partition(b"\n")
    method, query, headers = json.loads(head)
    fields = {name.encode("latin-1"): of.encode("latin-1") for name, of in headers.items()}
    return Message(body, fields, query, method=method)


@frozen
class Scope:
    """What an expression can read, as far as it is there.

    :param request: the client's.
    :param response: the ack.
    :param message: the callback, or what a poll brought.
    :param callback_url: of the job, with its token.
    """

    request: Message | None = None
    response: Message | None = None
    message: Message | None = None
    callback_url: str = field(default="", repr=False)

    @property
    def size(self) -> int:
        """About how many bytes it takes if it is compact."""
        messages = (self.request, self.response, self.message)
        return sum(each.size for each in messages if each is not None)

    def compact(self) -> "Scope":
        """Return the same without what was parsed; see :meth:`Message.compact`."""
        request, response, message = (
            None if each is None else each.compact()
            for each in (self.request, self.response, self.message)
        )
        return Scope(request, response, message, self.callback_url)

    def with_message(self, message: Message) -> "Scope":
        """Return what can be read once a callback, or a poll's response, is there too."""
        return Scope(self.request, self.response, message)


def read_headers(source: HeaderSource, names: frozenset[bytes]) -> Mapping[bytes, bytes]:
    """Return some headers of a request or a response, by name, as far as they are there."""
    found = ((name, source.find_header(name)) for name in names)
    return {name: value for name, value in found if value}
