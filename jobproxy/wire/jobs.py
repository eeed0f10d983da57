"""A client's job, and the job server's acks and callbacks, as frozen values.

Clients' requests are parsed strictly. Of the job server's bodies only two members are read, and the
bytes are passed on unchanged: to refuse the result of a finished job because of its format would
help no one.
"""

import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from attrs import field, frozen

from jobproxy.wire import strict_json
from jobproxy.wire.problems import FieldError, Kind, Problem, ProblemError

MAX_ACCOUNT = 254
MAX_ID = 128

#: States of a job that has not ended (any other state of a callback ends it).
PROGRESS = frozenset({"queued", "pending", "running"})
#: States with which an ack is already the result; an ack with an unknown state is not.
ENDED = frozenset({"completed", "failed", "rejected", "cancelled", "canceled", "error"})

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


@frozen
class Report:
    """An ack or a callback.

    :param body: all of it, byte for byte.
    :param upstream_id: its ``id``; :data:`None`: there is none, or it is not a string of 1 to
        :data:`MAX_ID` characters.
    :param state: its ``state``; :data:`None`: there is none, or it is not a string.
    """

    body: bytes = field(repr=False)
    upstream_id: str | None
    state: str | None

    @property
    def is_progress(self) -> bool:
        """Whether the job has not ended, if this is a callback."""
        return self.state in PROGRESS

    @property
    def is_ended(self) -> bool:
        """Whether this is already the job's result, if it is an ack."""
        return self.state in ENDED


def parse_job(body: bytes, *, allows_callbacks: bool = False) -> Job:
    """Parse the body of a client's request.

    :param allows_callbacks: whether a client may name a callback URL of its own.
    :raises ProblemError: if the body is not an object in strict JSON or is nested too deeply,
        ``account`` or ``wait`` is invalid, or ``callback`` is not allowed.
    """
    text = strict_json.decode(body)
    members = strict_json.parse_strictly(text)
    errors = tuple(_find_errors(members))
    is_held = members.get("wait", True)
    has_callback = is_held is False and "callback" in members
    if has_callback and not allows_callbacks:
        detail = (
            "This proxy does not allow callbacks to clients: leave out callback, and GET the "
            "result from the Location of the response."
        )
        raise ProblemError(Problem(Kind.CALLBACK_NOT_ALLOWED, detail))
    if errors:
        detail = "; ".join(f"{error.pointer[1:]} {error.detail}" for error in errors) + "."
        raise ProblemError(Problem(Kind.INVALID_REQUEST, detail, errors=errors))
    parameters = ",".join(
        [raw for raw, name in strict_json.split_members(text) if name not in ("wait", "callback")]
    )
    return Job(
        account=members["account"],
        parameters=parameters,
        is_held=is_held,
        own_start=body if has_callback else None,
        size=len(body),
    )


def parse_report(body: bytes) -> Report:
    """Parse an ack or a callback, which has to be a JSON object.

    :raises ProblemError: if it is not.
    """
    members = strict_json.parse_leniently(strict_json.decode(body))
    upstream_id, state = members.get("id"), members.get("state")
    if not isinstance(upstream_id, str) or not 0 < len(upstream_id) <= MAX_ID:
        upstream_id = None
    return Report(body, upstream_id, state if isinstance(state, str) else None)


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
    if not isinstance(members.get("wait", True), bool):
        yield FieldError("/wait", "must be true, false or left out")
