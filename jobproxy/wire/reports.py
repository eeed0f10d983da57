"""The job server's acks and callbacks, as frozen values.

Of their bodies only two members are read, and the bytes are passed on unchanged. They may be
anything: to refuse the result of a finished job because of its format would help no one.
"""

from collections import deque
from itertools import islice
from typing import Any, Protocol

from attrs import field, frozen

from jobproxy.wire import strict_json
from jobproxy.wire.bodies import JSON_TYPE, guess_type, is_form, read_pairs, read_text
from jobproxy.wire.large_json import LARGE, LargeObject
from jobproxy.wire.problems import ProblemError

MAX_ID = 128
#: Steps in which a large body is read at most.
MAX_STEPS = 5
_READ = frozenset({"id", "state"})

#: The first byte of what is stored of a report that has more than a body of JSON.
_MARK = b"\0"

#: States of a job that has not ended (any other state of a callback ends it).
PROGRESS = frozenset(
    {
        "accepted",
        "created",
        "executing",
        "in progress",
        "in-progress",
        "in_progress",
        "initializing",
        "inprogress",
        "pending",
        "preparing",
        "processing",
        "queued",
        "running",
        "scheduled",
        "started",
        "starting",
        "submitted",
        "waiting",
    }
)
#: States with which an ack is already the result; an ack with an unknown state is not.
ENDED = frozenset(
    {
        "canceled",
        "cancelled",
        "completed",
        "done",
        "error",
        "failed",
        "rejected",
        "succeeded",
        "success",
    }
)


class Kept(Protocol):
    """What is kept with a report, whatever it is."""

    @property
    def size(self) -> int:
        """About how many bytes it takes in memory."""


@frozen
class Report:
    """An ack or a callback.

    :param body: all of it, byte for byte.
    :param upstream_id: its ``id``, a string or an integer, as text; :data:`None`: there is none, or
        it has not 1 to :data:`MAX_ID` characters.
    :param state: its ``state`` in lower case; :data:`None`: there is none, or it is no string.
    :param content_type: of the body.
    :param coding: the ``Content-Encoding`` of the body; empty: there is none.
    :param status: of the response to the client; :data:`None`: 200, and id and state are those in
        the body. A profile reads them elsewhere, so that they are stored with the body then.
    :param messages: of an ack: those that a profile needs later; of a thin callback without a
        token: the callback. They are not stored.
    :ivar size: about how many bytes it takes in memory.
    """

    body: bytes = field(repr=False)
    upstream_id: str | None
    state: str | None
    content_type: bytes = JSON_TYPE
    coding: bytes = b""
    status: int | None = None
    messages: Kept | None = field(default=None, eq=False, repr=False)

    @property
    def size(self) -> int:
        if self.content_type is JSON_TYPE and not self.coding and self.messages is None:
            # Mostly. Two calls less count, as this is asked twice for each job.
            return len(self.body)
        size = len(self.body) + len(self.content_type) + len(self.coding)
        return size if self.messages is None else size + self.messages.size

    @property
    def is_progress(self) -> bool:
        """Whether the job has not ended, if this is a callback."""
        return self.state in PROGRESS

    @property
    def is_ended(self) -> bool:
        """Whether this is already the job's result, if it is an ack."""
        return self.state in ENDED

    @property
    def stored(self) -> bytes:
        """The report as other nodes and later processes read it: mostly its body alone."""
        is_plain = self.content_type == JSON_TYPE and not self.coding and self.status is None
        if is_plain and self.body[:1] != _MARK:
            return self.body
        parts = [self.content_type, self.coding]
        if self.status is not None:
            read = (str(self.status), self.state or "", self.upstream_id or "")
            parts += [part.encode() for part in read]
        return b"%b%b\n%b" % (_MARK, b"\0".join(parts), self.body)


def read_report(body: bytes, content_type: bytes | None = None, coding: bytes = b"") -> Report:
    """Read an ack or a callback, which may be anything.

    :param content_type: as it came, if it did.
    :param coding: its ``Content-Encoding``.
    """
    if content_type == JSON_TYPE:
        # All reports share one object.
        content_type = JSON_TYPE
    is_pairs = content_type and content_type is not JSON_TYPE and is_form(content_type)
    members: dict[str, Any] | None = (
        dict(read_pairs(read_text(body, coding))) if is_pairs else _read_members(body, coding)
    )
    upstream_id = members.get("id") if members else None
    state = members.get("state") if members else None
    if not isinstance(upstream_id, str) or not 0 < len(upstream_id) <= MAX_ID:
        upstream_id = None
    if not isinstance(state, str) or isinstance(state, strict_json.Integer):
        state = None
    elif state not in PROGRESS and state not in ENDED:
        state = state.lower()
    if not content_type:
        content_type = guess_type(is_object=members is not None)
    return Report(body, upstream_id, state, content_type, coding)


def read_stored(data: bytes) -> Report:
    """Read what :attr:`Report.stored` has made of a report."""
    if data[:1] != _MARK:
        return read_report(data, JSON_TYPE)
    head, _, body = data[1:].partition(b"\n")
    content_type, coding, *read = head.split(b"\0")
    if not read:
        return read_report(body, content_type, coding)
    status, state, upstream_id = (part.decode() for part in read)
    return Report(body, upstream_id or None, state or None, content_type, coding, int(status))


def _read_members(body: bytes, coding: bytes) -> dict[str, Any] | None:
    """Return the members of an object in JSON; :data:`None`: the body is none."""
    text = read_text(body, coding)
    try:
        return strict_json.parse_leniently(text) if len(text) <= LARGE else _look_into(text)
    except ProblemError:
        return None


def _look_into(text: str) -> dict[str, Any]:
    """Return the members that are read here of a large object, as far as it is looked at.

    The loop must not be held for long. Long strings are skipped; what lies behind 5 MB or 20,000
    values is not read.

    :raises ProblemError: if the text is not a JSON object.
    """
    found = LargeObject(text, _READ, is_strict=False)
    deque(islice(found.read(), MAX_STEPS), maxlen=0)
    return found.members
