"""A client's job as a frozen value; requests are parsed strictly."""

import re
from collections.abc import Generator, Iterator
from hashlib import blake2b
from typing import Any

from attrs import field, frozen

from jobproxy.wire import strict_json
from jobproxy.wire.large_json import LargeObject
from jobproxy.wire.problems import FieldError, Kind, Problem, ProblemError

MAX_ACCOUNT = 254

#: Members that are not forwarded, and those that are read.
_OURS = frozenset({"wait", "callback"})
_READ = _OURS | {"account"}

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


@frozen
class Job:
    """A job as a client sent it.

    :param account: the party that the job belongs to; the job server limits connections by it.
    :param parameters: the client's members, without ``wait`` and ``callback``: JSON text exactly
        as it came, ``"name": value`` pairs with commas between them.
    :param is_held: whether the client waits for the result, and not only for the ack.
    :param own_start: the body of the start request if the client has set a callback URL of its
        own: the client's body, unchanged.
    :param size: bytes of the client's body.
    """

    account: str = field(repr=False)
    parameters: str = field(repr=False)
    is_held: bool = True
    own_start: bytes | None = field(default=None, repr=False)
    size: int = 0

    def to_start(self, callback_url: str) -> bytes:
        """Return the body of the start request: the client's members, then ours."""
        if self.own_start is not None:
            return self.own_start
        ours = f'"wait":false,"callback":{strict_json.write_string(callback_url)}'
        return f"{{{self.parameters},{ours}}}".encode()


def parse_job(body: bytes, *, allows_callbacks: bool = False) -> Job:
    """Parse the body of a client's request.

    :param allows_callbacks: whether a client may name a callback URL of its own.
    :raises ProblemError: if the body is not an object in strict JSON or is nested too deeply,
        ``account`` or ``wait`` is invalid, or ``callback`` is not allowed.
    """
    text = strict_json.decode(body)
    members = strict_json.parse_strictly(text)
    has_callback = _check(members, allows_callbacks)
    parameters = ",".join(
        [raw for raw, name in strict_json.split_members(text) if name not in _OURS]
    )
    return _make_job(body, members, parameters, has_callback)


def parse_large_job(body: bytes, *, allows_callbacks: bool = False) -> Generator[None, None, Job]:
    """Parse the body of a client's request in steps, as :func:`parse_job` does in one."""
    found = LargeObject(strict_json.decode_text(body), _READ, cut=_OURS, is_strict=True)
    yield from found.read()
    has_callback = _check(found.members, allows_callbacks)
    return _make_job(body, found.members, found.others, has_callback)


def _check(members: dict[str, Any], allows_callbacks: bool) -> bool:
    """Return whether the client names a callback URL of its own."""
    errors = tuple(_find_errors(members))
    # Many clients write null, or an empty string, for what is not there.
    has_callback = members.get("wait") is False and members.get("callback") not in (None, "")
    if has_callback and not allows_callbacks:
        detail = (
            "This proxy does not allow callbacks to clients: leave out callback, and GET the "
            "result from the Location of the response."
        )
        raise ProblemError(Problem(Kind.CALLBACK_NOT_ALLOWED, detail))
    if errors:
        detail = "; ".join(f"{error.pointer[1:]} {error.detail}" for error in errors) + "."
        raise ProblemError(Problem(Kind.INVALID_REQUEST, detail, errors=errors))
    return has_callback


def _make_job(body: bytes, members: dict[str, Any], parameters: str, has_callback: bool) -> Job:
    return Job(
        account=members["account"],
        parameters=parameters,
        is_held=members.get("wait") is not False,
        own_start=body if has_callback else None,
        size=len(body),
    )


def key_digest_of(job: Job, key: str) -> bytes:
    """Return the key digest: a hash of the account and its Idempotency-Key."""
    # Neither can contain a zero byte, so different pairs give different texts.
    return _digest(f"{job.account}\0{key}")


def request_digest_of(job: Job) -> bytes:
    """Return the request digest: a hash of the content of the job."""
    # Whether the client waits is not part of the content.
    return _digest(job.parameters if job.own_start is None else job.own_start.decode())


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=16).digest()


def _find_errors(members: dict[str, Any]) -> Iterator[FieldError]:
    account = members.get("account")
    if "account" not in members:
        yield FieldError("/account", "is missing")
    elif not isinstance(account, str):
        yield FieldError("/account", "must be a string")
    elif not 1 <= len(account) <= MAX_ACCOUNT:
        yield FieldError("/account", f"must have 1 to {MAX_ACCOUNT} characters, not {len(account)}")
    elif _CONTROL.search(account):
        yield FieldError("/account", "must not contain control characters")
    if not isinstance(members.get("wait"), bool | None):
        yield FieldError("/wait", "must be true, false or left out")
