"""Finds out whether connections to the job server may be kept for the next start.

The job server serves one connection of an account at a time. Whether one that is idle counts is not
known beforehand. If it does, keeping it stops all other starts of the account; if it does not, to
close it is a waste. So one is kept on trial: when another start of its account is acknowledged
meanwhile, the idle one did not count. When starts of the account hang, it is closed, and none is
kept for some time.
"""

from collections.abc import Callable
from enum import Enum

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger()

#: Seconds without an ack after which starts count as hanging: at least, and by the time that the
#: first one took.
MIN_PATIENCE = 0.05
PATIENCE = 2.0
#: Seconds until the next trial after one that failed; twice as many each time.
FIRST_PAUSE = 60.0
MAX_PAUSE = 3_600.0


class _Phase(Enum):
    UNTRIED = "untried"
    #: The start whose connection is to be kept is under way.
    STARTING = "starting"
    #: Its connection is idle, and other starts of the account are watched.
    WATCHING = "watching"
    SAFE = "safe"
    UNSAFE = "unsafe"


@define(eq=False)
class Call:
    """One start call.

    :ivar may_keep: whether its connection may be one that was kept, and be kept again.
    """

    account: str = field(repr=False)
    sent: float
    may_keep: bool


@define(eq=False)
class KeepAlivePolicy:
    """Says for each start call whether its connection may be kept.

    :param close_idle: closes all connections that are idle.
    :param idle_time: seconds that idle connections are kept; 0: none is, ever.
    """

    _clock: IReactorTime
    _close_idle: Callable[[], None]
    _idle_time: float
    _phase: _Phase = field(default=_Phase.UNTRIED, init=False)
    _account: str = field(default="", init=False, repr=False)
    #: The calls of the account on trial that have no ack yet.
    _calls: set[Call] = field(factory=set, init=False)
    _watching_since: float = field(default=0.0, init=False)
    #: When the trial's account last had an ack.
    _last_ack: float = field(default=0.0, init=False)
    _patience: float = field(default=0.0, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _trial_from: float = field(default=0.0, init=False)
    _pause: float = field(default=FIRST_PAUSE, init=False)

    def begin(self, account: str) -> Call:
        """Note that a start call is about to be sent."""
        now = self._clock.seconds()
        if self._phase is _Phase.SAFE or not self._idle_time:
            return Call(account, now, may_keep=self._phase is _Phase.SAFE)
        if self._phase is _Phase.WATCHING and now > self._watching_since + self._idle_time:
            self._stop(_Phase.UNTRIED)
        if self._phase is _Phase.UNSAFE and now >= self._trial_from:
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
        """Note that a start call was answered, or that it failed."""
        self._calls.discard(call)
        if self._phase is _Phase.STARTING and call.may_keep:
            if not is_acknowledged:
                self._stop(_Phase.UNTRIED)
                # An answer that is no ack leaves the connection idle, with nobody to watch it.
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
            # The account's other starts wait for each other, not for the idle connection.
            self._last_ack = self._clock.seconds()
        elif self._clock.seconds() < self._watching_since + self._idle_time:
            _log.info("connections to the job server are kept for the next start")
            self._stop(_Phase.SAFE)

    def _watch(self) -> None:
        """See to it that calls that hang are found, while there are any."""
        if self._phase is _Phase.WATCHING and self._calls and self._timer is None:
            then = min(map(self._hangs_from, self._calls))
            self._timer = self._clock.callLater(max(0.0, then - self._clock.seconds()), self._check)

    def _hangs_from(self, call: Call) -> float:
        """Return when a call without an ack counts as hanging."""
        return max(call.sent, self._last_ack) + self._patience

    def _check(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        if any(self._hangs_from(call) <= now for call in self._calls):
            _log.info("the job server counts idle connections, so that none is kept")
            self._trial_from = self._clock.seconds() + self._pause
            self._pause = min(2 * self._pause, MAX_PAUSE)
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
