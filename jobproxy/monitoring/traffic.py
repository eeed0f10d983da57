"""Counts of connections, responses and refusals of all servers, and the last refusals."""

from collections import Counter, deque
from collections.abc import Callable
from time import time

from attrs import define, field, frozen

from jobproxy.http1.errors import ConnectionFault, RequestFault
from jobproxy.monitoring.errors import Errors

#: How many of the last refusals are kept.
MAX_REFUSALS = 20


@frozen
class Refusal:
    """A response that was not what its receiver wanted.

    :param time: in Unix seconds.
    :param outcome: one word for why.
    """

    time: float
    status: int
    outcome: str
    request_id: bytes


@define(eq=False)
class Traffic:
    """Counts what HTTP servers report; a server observer for all of them.

    :param now: Unix time in seconds.
    :ivar connections: how many are open.
    :ivar responses: how many responses there were, by side, status and outcome; with status 499
        those that the client did not wait for.
    :ivar refused: how many requests and connections were refused before there was a request, by
        reason.
    :ivar errors: the responses whose outcome was not ``ok``, by type.
    :ivar refusals: the last responses whose outcome was not ``ok``, the newest last.
    """

    _now: Callable[[], float] = time
    connections: int = field(default=0, init=False)
    responses: Counter[tuple[str, int, str]] = field(factory=Counter, init=False)
    refused: Counter[str] = field(factory=Counter, init=False)
    refusals: deque[Refusal] = field(factory=lambda: deque(maxlen=MAX_REFUSALS), init=False)
    errors: Errors = field(factory=Errors, init=False)

    def connection_opened(self) -> None:
        self.connections += 1

    def connection_closed(self) -> None:
        self.connections -= 1

    def response_sent(self, side: str, status: int, outcome: str, request_id: bytes) -> None:
        self.responses[side, status, outcome] += 1
        if outcome != "ok":
            self._note(side, status, outcome, request_id)

    def client_left(self, side: str) -> None:
        self.responses[side, 499, "client-left"] += 1

    def request_refused(self, status: int, reason: RequestFault, request_id: bytes) -> None:
        self.refused[reason] += 1
        self._note("", status, reason, request_id)

    def connection_refused(self, reason: ConnectionFault) -> None:
        self.refused[reason] += 1

    def _note(self, side: str, status: int, outcome: str, request_id: bytes) -> None:
        now = self._now()
        self.refusals.append(Refusal(now, status, outcome, request_id))
        self.errors.add(side, status, outcome, request_id, now)
