"""What crosses the wire, as frozen values: bytes in, values out, and back.

Requests of clients are read strictly, since what we let pass here another program has to read
the same way. Bodies of the job server are read for the two members that we need and otherwise
passed on as they are: to refuse the result of a finished job over its style would help nobody.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from attrs import field, frozen

from jobproxy.wire.problems import CallbackNotAllowed, FieldError, InvalidJson, InvalidRequest

MAX_DEPTH = 64
MAX_ACCOUNT = 254
MAX_ID = 128

#: States of a job that has not ended (any other state of a callback ends it).
PROGRESS = frozenset({"queued", "pending", "running"})
#: States with which the ack of a start already is the result (an unknown word in an ack is not).
ENDED = frozenset({"completed", "failed", "rejected", "cancelled", "canceled", "error"})

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_SPACE = re.compile(r"[ \t\n\r]*")


@frozen
class Job:
    """A job that a client wants done.

    :param account: whose job it is; the job server limits connections by it.
    :param parameters: the client's own members, without ``wait`` and ``callback``: JSON text
        exactly as it came, ``"name": value`` pairs with commas between them.
    :param is_held: whether the client waits for the result; else for no more than the ack.
    :param own_start: what is sent to the job server as it is, if the client wants to be called back
        itself.
    """

    account: str = field(repr=False)
    parameters: str = field(repr=False)
    is_held: bool = True
    own_start: bytes | None = field(default=None, repr=False)

    def to_start(self, callback_url: str) -> bytes:
        """Return the body of the start call: the client's parameters, then ours."""
        if self.own_start is not None:
            return self.own_start
        ours = f'"wait":false,"callback":{json.dumps(callback_url)}'
        return f"{{{self.parameters},{ours}}}".encode()


@frozen
class Report:
    """What the job server says of a job: the ack of a start, or a callback.

    :param body: all of it, byte for byte.
    :param upstream_id: the job server's id of the job, if it gave a usable one.
    :param state: its word for the job's state, if it gave one.
    """

    body: bytes = field(repr=False)
    upstream_id: str | None
    state: str | None

    @property
    def is_progress(self) -> bool:
        """Whether a callback like this leaves the job unfinished."""
        return self.state in PROGRESS

    @property
    def is_ended(self) -> bool:
        """Whether an ack like this already is the job's result."""
        return self.state in ENDED


def parse_job(body: bytes, *, allows_callbacks: bool = False) -> Job:
    """Read the body of a client's request.

    :param allows_callbacks: whether a client may want to be called back itself.
    :raises InvalidJson: if it is not strict JSON (RFC 8259, and RFC 7493 for duplicate names and
        lone surrogates), not an object, or nested deeper than ``MAX_DEPTH``.
    :raises InvalidRequest: if a member that we understand has a value that we do not.
    :raises CallbackNotAllowed: if the client wants to be called back itself.
    """
    text = _decode(body)
    members = _parse_strictly(text)
    errors = list(_find_faults(members))
    is_held = members.get("wait", True)
    has_callback = is_held is False and "callback" in members
    if has_callback and not allows_callbacks:
        raise CallbackNotAllowed(
            "This proxy lets the job server call no one but itself: leave out callback, and ask "
            "for the result at the Location of the answer."
        )
    if errors:
        raise InvalidRequest(
            "; ".join(f"{error_.pointer[1:]} {error_.detail}" for error_ in errors) + ".",
            errors=errors,
        )
    parameters = ",".join(
        raw for name, raw in _split_members(text) if name not in ("wait", "callback")
    )
    return Job(
        account=members["account"],
        parameters=parameters,
        is_held=is_held,
        own_start=body if has_callback else None,
    )


def parse_report(body: bytes) -> Report:
    """Read an ack or a callback; only that it is a JSON object is demanded.

    :raises InvalidJson: if it is not.
    """
    text = _decode(body)
    try:
        members = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"The body is not JSON: {_explain(error)}.") from error
    if not isinstance(members, dict):
        raise InvalidJson("The body is JSON, but not an object.")
    upstream_id, state = members.get("id"), members.get("state")
    return Report(
        body=body,
        upstream_id=upstream_id
        if isinstance(upstream_id, str) and 0 < len(upstream_id) <= MAX_ID
        else None,
        state=state if isinstance(state, str) else None,
    )


def _find_faults(members: dict[str, Any]) -> Iterator[FieldError]:
    account = members.get("account")
    if "account" not in members:
        yield FieldError("/account", "is missing")
    elif not isinstance(account, str):
        yield FieldError("/account", "must be a string")
    elif not 1 <= len(account) <= MAX_ACCOUNT:
        yield FieldError("/account", f"must have 1 to {MAX_ACCOUNT} characters, not {len(account)}")
    elif _CONTROL.search(account):
        yield FieldError("/account", "must not contain control characters")
    if not isinstance(members.get("wait", True), bool):
        yield FieldError("/wait", "must be true, false or left out")


def _decode(body: bytes) -> str:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise InvalidJson(f"The body is not UTF-8: byte {error.start} is wrong.") from error
    if text.startswith("\ufeff"):
        raise InvalidJson("The body starts with a byte order mark, which JSON does not allow.")
    if _is_too_deep(text):
        raise InvalidJson(f"The body is nested deeper than {MAX_DEPTH} levels.")
    return text


def _is_too_deep(text: str) -> bool:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return False
    depth = 0
    for character in _STRING.sub("", text):
        if character in "{[":
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif character in "}]":
            depth -= 1
    return False


def _parse_strictly(text: str) -> dict[str, Any]:
    try:
        members = _STRICT.decode(text)
        if _SURROGATE.search(text):
            json.dumps(members, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidJson("The body escapes half a surrogate pair.") from error
    except (ValueError, RecursionError) as error:
        raise InvalidJson(f"The body is not JSON: {_explain(error)}.") from error
    if not isinstance(members, dict):
        raise InvalidJson("The body is JSON, but not an object.")
    return members


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


_STRICT = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates)


def _split_members(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the raw text, name and value, of each member of a valid JSON object."""
    at = text.index("{")
    while True:
        start = _skip_space(text, at + 1)
        if text[start] == "}":
            return
        name, at = _STRICT.raw_decode(text, start)
        colon = _skip_space(text, at)
        _, end = _STRICT.raw_decode(text, _skip_space(text, colon + 1))
        yield name, text[start:end]
        at = _skip_space(text, end)
        if text[at] == "}":
            return


def _skip_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()
