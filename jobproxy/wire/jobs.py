"""A client's job as a frozen value; requests are parsed strictly."""

import re
from collections.abc import Generator, Iterator
from hashlib import blake2b
from typing import Any, Protocol

from attrs import field, frozen

from jobproxy.wire import strict_json
from jobproxy.wire.headers import Headers, HeaderSource
from jobproxy.wire.large_json import LargeObject
from jobproxy.wire.problems import FieldError, Kind, Problem, ProblemError
from jobproxy.wire.reports import Report, read_report
from jobproxy.wire.start_calls import StartCall

MAX_ACCOUNT = 254

#: Members that are not forwarded, and those that are read.
_OURS = frozenset({"wait", "callback"})
_READ = _OURS | {"account"}

#: Characters that an account must not have.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_JSON: Headers = ((b"Content-Type", b"application/json"),)


class AnyJob(Protocol):
    """A job as a client sent it, in whatever way its job server is spoken to."""

    @property
    def account(self) -> str:
        """The party that the job belongs to."""

    @property
    def is_held(self) -> bool:
        """Whether the client waits for the result, and not only for the ack."""

    @property
    def size(self) -> int:
        """Bytes that the job takes in memory."""

    @property
    def has_own_callback(self) -> bool:
        """Whether its callback goes to the client, so that its ack ends it."""

    def digest(self) -> bytes:
        """Return a hash of the content of the job."""

    def to_start(self, callback_url: str) -> StartCall:
        """Return the start request."""

    def read_ack(self, status: int, response: HeaderSource, body: bytes) -> Report | None:
        """Return the ack in a successful response.

        :return: :data:`None`: it says that the job was not started.
        """


@frozen
class Job:
    """A job as a client sent it.

    :param account: the party that the job belongs to; the job server limits connections by it.
    :param parameters: the client's members, without ``wait`` and ``callback``: JSON exactly as it
        came, ``"name": value`` pairs with commas between them. Not as text, which takes up to four
        bytes for each character.
    :param is_held: whether the client waits for the result, and not only for the ack.
    :param own_start: the body of the start request if the client has set a callback URL of its
        own: the client's body, unchanged.
    :param headers: of the client, which go on with the start request.
    :param size: bytes of all these.
    """

    account: str = field(repr=False)
    parameters: bytes = field(repr=False)
    is_held: bool = True
    own_start: bytes | None = field(default=None, repr=False)
    size: int = 0
    headers: Headers = field(default=(), repr=False)

    @property
    def has_own_callback(self) -> bool:
        return self.own_start is not None

    def digest(self) -> bytes:
        # Whether the client waits is not part of the content.
        return _digest(self.parameters if self.own_start is None else self.own_start)

    def to_start(self, callback_url: str) -> StartCall:
        """Return the start request: the client's members, then ours."""
        if self.own_start is not None:
            return StartCall(self.own_start, _JSON + self.headers)
        ours = f'"wait":false,"callback":{strict_json.write_string(callback_url)}'
        return StartCall(b"{%b,%b}" % (self.parameters, ours.encode()), _JSON + self.headers)

    def read_ack(self, status: int, response: HeaderSource, body: bytes) -> Report:  # noqa: ARG002
        coding = response.find_header(b"content-encoding") or b""
        return read_report(body, response.find_header(b"content-type"), coding)


def parse_job(body: bytes, *, allows_callbacks: bool = False, is_async: bool = False) -> Job:
    """Parse the body of a client's request.

    :param allows_callbacks: whether a client may name a callback URL of its own.
    :param is_async: whether the client does not wait, as its headers say.
    :raises ProblemError: if the body is not an object in strict JSON or is nested too deeply,
        ``account`` or ``wait`` is invalid, or ``callback`` is not allowed.
    """
    text = strict_json.decode(body)
    members = strict_json.parse_strictly(text)
    has_callback = _check(members, allows_callbacks, is_async)
    parameters = ",".join(
        [raw for raw, name in strict_json.split_members(text) if name not in _OURS]
    )
    return _make_job(body, members, parameters, has_callback)


def parse_large_job(
    body: bytes, *, allows_callbacks: bool = False, is_async: bool = False
) -> Generator[None, None, Job]:
    """Parse the body of a client's request in steps, as :func:`parse_job` does in one."""
    found = LargeObject(strict_json.decode_text(body), _READ, cut=_OURS, is_strict=True)
    yield from found.read()
    has_callback = _check(found.members, allows_callbacks, is_async)
    return _make_job(body, found.members, found.others, has_callback)


def _check(members: dict[str, Any], allows_callbacks: bool, is_async: bool) -> bool:
    """Return whether the client names a callback URL of its own."""
    errors = tuple(_find_errors(members))
    is_held = members.get("wait") is not False
    # Many clients write null, or an empty string, for what is not there.
    has_callback = (is_async or not is_held) and members.get("callback") not in (None, "")
    if has_callback and not allows_callbacks:
        detail = (
            "This proxy does not allow callbacks to clients: leave out callback, and GET the "
            "result from the Location of the response."
        )
        raise ProblemError(Problem(Kind.CALLBACK_NOT_ALLOWED, detail))
    if has_callback and is_held:
        # The job server gets this body as it is, and would wait.
        errors += (FieldError("/wait", "must be false if callback is given"),)
    if errors:
        detail = "; ".join(f"{error.pointer[1:]} {error.detail}" for error in errors) + "."
        raise ProblemError(Problem(Kind.INVALID_REQUEST, detail, errors=errors))
    return has_callback


def _make_job(body: bytes, members: dict[str, Any], parameters: str, has_callback: bool) -> Job:
    return Job(
        account=members["account"],
        parameters=parameters.encode(),
        is_held=members.get("wait") is not False,
        own_start=body if has_callback else None,
        size=len(body),
    )


def key_digest_of(job: AnyJob, key: str) -> bytes:
    """Return the key digest: a hash of the account and its Idempotency-Key."""
    # Neither can contain a zero byte, so different pairs give different texts.
    return _digest(f"{job.account}\0{key}".encode())


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _find_errors(members: dict[str, Any]) -> Iterator[FieldError]:
    account = members.get("account")
    if "account" not in members:
        yield FieldError("/account", "is missing")
    elif not isinstance(account, str):
        yield FieldError("/account", "must be a string")
    elif not 1 <= len(account) <= MAX_ACCOUNT:
        yield FieldError("/account", f"must have 1 to {MAX_ACCOUNT} characters, not {len(account)}")
    elif CONTROL.search(account):
        yield FieldError("/account", "must not contain control characters")
    if not isinstance(members.get("wait"), bool | None):
        yield FieldError("/wait", "must be true, false or left out")
