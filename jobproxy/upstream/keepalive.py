"""Keep-alive: whether an idle connection to the job server may be kept for the next start request.

The job server serves one connection of an account at a time. Whether an idle connection counts as
one is not known beforehand. If it does, keeping it blocks all other start requests of the account;
if it does not, closing it is a waste. So one connection is kept on trial. If another start request
of its account is acknowledged while it is idle, idle connections do not count, and all are kept. If
start requests of the account hang, it is closed, and none is kept for some time.
"""

from collections.abc import Callable
from enum import Enum

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from jobproxy.util.backoff import Backoff

_log = Logger()

#: A start request hangs when it has no ack after so many times the duration of the first one, and
#: after so many seconds at least.
PATIENCE = 2.0
MIN_PATIENCE = 0.05
#: Seconds until the next trial after the first one that failed, and after later ones at most.
BACKOFF = Backoff(first=60.0, maximum=3_600.0)


class _Phase(Enum):
    #: The next start request is the candidate: its connection is kept on trial.
    UNTRIED = "untried"
    #: The candidate is under way.
    STARTING = "starting"
    #: The candidate's connection is idle, and other start requests of its account are watched.
    WATCHING = "watching"
    #: Idle connections do not count: all are kept.
    SAFE = "safe"
    #: Idle connections count: none is kept until the next trial.
    UNSAFE = "unsafe"


@define(eq=False)
class Call:
    """One start request.

    :ivar sent: when it was sent, in seconds on the clock.
    :ivar may_keep: whether it may use an idle connection, and its own may be kept afterwards.
    """

    account: str = field(repr=False)
    sent: float
    may_keep: bool


@define(eq=False)
class KeepAlivePolicy:
    """Decides for each start request whether its connection may be kept.

    :param close_idle: closes all idle connections.
    :param idle_time: seconds that an idle connection is kept; 0: none is ever kept.
    """

    _clock: IReactorTime
    _close_idle: Callable[[], None]
    _idle_time: float
    _phase: _Phase = field(default=_Phase.UNTRIED, init=False)
    _account: str = field(default="", init=False, repr=False)
    #: The start requests of the account on trial that have not ended.
    _calls: set[Call] = field(factory=set, init=False)
    _watching_since: float = field(default=0.0, init=False)
    #: When the account on trial last had an ack.
    _last_ack: float = field(default=0.0, init=False)
    _patience: float = field(default=0.0, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _next_trial: float = field(default=0.0, init=False)
    _failed_trials: int = field(default=0, init=False)

    def begin(self, account: str) -> Call:
        """Record that a start request is about to be sent; :meth:`end` has to follow."""
        now = self._clock.seconds()
        if self._phase is _Phase.SAFE or not self._idle_time:
            return Call(account, now, may_keep=self._phase is _Phase.SAFE)
        if self._phase is _Phase.WATCHING and now > self._watching_since + self._idle_time:
            self._stop(_Phase.UNTRIED)
        if self._phase is _Phase.UNSAFE and now >= self._next_trial:
            self._phase = _Phase.UNTRIED
        is_candidate = self._phase is _Phase.UNTRIED
        if is_candidate:
            self._phase, self._account = _Phase.STARTING, account
        call = Call(account, now, may_keep=is_candidate)
        if account == self._account:
            self._calls.add(call)
            self._watch()
        return call

    def end(self, call: Call, is_acknowledged: bool) -> None:
        """Record that a start request ended, with an ack or without."""
        self._calls.discard(call)
        if self._phase is _Phase.STARTING and call.may_keep:
            if not is_acknowledged:
                self._stop(_Phase.UNTRIED)
                # A response that is no ack leaves the connection idle, and no trial watches it.
                self._close_idle()
                return
            now = self._clock.seconds()
            self._phase, self._watching_since = _Phase.WATCHING, now
            self._last_ack = now
            self._patience = max(MIN_PATIENCE, PATIENCE * (now - call.sent))
            self._watch()
        elif (
            self._phase is not _Phase.WATCHING
            or not is_acknowledged
            or call.account != self._account
        ):
            return
        elif call.sent < self._watching_since:
            # Start requests sent before wait for each other, not for the idle connection.
            self._last_ack = self._clock.seconds()
        elif self._clock.seconds() < self._watching_since + self._idle_time:
            _log.info("idle connections to the job server are kept from now on")
            self._stop(_Phase.SAFE)

    def _watch(self) -> None:
        """Set the timer for the first start request that may hang, if any is watched."""
        if self._phase is _Phase.WATCHING and self._calls and self._timer is None:
            then = min(map(self._hangs_from, self._calls))
            self._timer = self._clock.callLater(max(0.0, then - self._clock.seconds()), self._check)

    def _hangs_from(self, call: Call) -> float:
        """Return when a start request without an ack counts as hanging."""
        return max(call.sent, self._last_ack) + self._patience

    def _check(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        if any(self._hangs_from(call) <= now for call in self._calls):
            self._failed_trials += 1
            pause = BACKOFF.pause(self._failed_trials)
            _log.info(
                "the job server counts idle connections; none is kept for {pause} s", pause=pause
            )
            self._next_trial = now + pause
            self._stop(_Phase.UNSAFE)
            self._close_idle()
        else:
            self._watch()

    def _stop(self, phase: _Phase) -> None:
        self._phase = phase
        self._account = ""
        self._calls.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
