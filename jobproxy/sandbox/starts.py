"""The simulator's start requests."""

import json
from typing import Any

from attrs import field, frozen
from twisted.web.http import Request

from jobproxy.sandbox.faults import Fault

#: Bytes of a request body that are read, and of the response to a callback at most.
MAX_BODY = 50_000_000


class BadRequest(Exception):
    """The request is invalid."""


@frozen
class ReceivedStart:
    """A start request that has no slot yet.

    :param callback_url: :data:`None` if the client waits for the result.
    :param tag: is copied to the result, so that its receiver can identify the job; the real job
        server has no such member.
    """

    account: str
    callback_url: str | None
    tag: Any


@frozen(eq=False)
class Start:
    """A start request that is served, and its callbacks.

    :param callback_url: as of :class:`ReceivedStart`, like the account and the tag.
    :param faults: those that were drawn, by kind.
    :param begun: when it got its slot, in seconds on the clock.
    :ivar delivered: one entry for each callback that got a response: the seconds from the start
        request to the callback, and the status and the body of the response.
    """

    account: str
    callback_url: str | None
    tag: Any
    faults: dict[str, Fault]
    begun: float
    delivered: list[tuple[float, int, str]] = field(factory=list, init=False)

    def describe(self) -> dict[str, Any]:
        """Return the entry of ``/faulty-starts``."""
        return {
            "callback": self.callback_url,
            "tag": self.tag,
            "faults": list(self.faults),
            "delivered": self.delivered,
        }


def read_start(request: Request) -> ReceivedStart:
    """Parse a start request."""
    try:
        body = json.loads(read_body(request))
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    account, callback_url = body.get("account"), body.get("callback")
    if not isinstance(account, str) or not account:
        raise BadRequest("account must be a string")
    if body.get("wait") is True:
        return ReceivedStart(account, None, body.get("tag"))
    if not isinstance(callback_url, str) or not callback_url.startswith(("http://", "https://")):
        raise BadRequest("without wait: true, callback must be a URL")
    return ReceivedStart(account, callback_url, body.get("tag"))


def read_body(request: Request) -> bytes:
    """Return the body of a request, cut at :data:`MAX_BODY`."""
    assert request.content is not None
    return request.content.read(MAX_BODY)
