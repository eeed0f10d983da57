"""The circuit breaker: once the job server is dead, nobody has to wait to be told."""

import math
from collections.abc import Callable
from enum import Enum
from random import Random

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.wire.problems import UpstreamUnreachable

_log = Logger()

#: Start calls in a row that got no answer, or an error of the server, until it counts as dead.
THRESHOLD = 10
#: Seconds until it is tried again; twice as many each time.
FIRST_PAUSE = 1.0
MAX_PAUSE = 30.0


class Phase(Enum):
    """What the circuit lets through."""

    CLOSED = "closed"
    OPEN = "open"
    #: One start is on its way to see whether the job server is back.
    HALF_OPEN = "half-open"


@define(eq=False)
class Circuit:
    """Refuses start calls while the job server is dead, but for one now and then that tries it.

    :param random: varies the pauses, so that several proxies do not come back at once.
    :ivar when_open: is called when the job server is found dead.
    """

    _clock: IReactorTime
    _random: Random
    phase: Phase = field(default=Phase.CLOSED, init=False)
    when_open: Callable[[], object] = field(default=lambda: None, init=False)
    _failures: int = field(default=0, init=False)
    _pause: float = field(default=FIRST_PAUSE, init=False)
    _until: float = field(default=0.0, init=False)

    @property
    def allows(self) -> bool:
        """Whether a start that comes now is let through, be it to try the job server."""
        is_due = self._until <= self._clock.seconds()
        return self.phase is Phase.CLOSED or (self.phase is Phase.OPEN and is_due)

    def check_allowed(self) -> None:
        """Look whether a job that comes now has a chance.

        :raises UpstreamUnreachable: if not.
        """
        if not self.allows:
            left = self._until - self._clock.seconds()
            raise UpstreamUnreachable(
                f"The job server has not answered the last {self._failures} starts, and is not "
                "tried again at once; the job was not started.",
                retry_after=max(1, math.ceil(left)),
            )

    def before_call(self) -> bool:
        """Begin a start call; exactly one of the ``record_`` methods has to follow.

        :return: whether it is the one that tries whether the job server is back.
        :raises UpstreamUnreachable: if there must be none now.
        """
        self.check_allowed()
        is_probe = self.phase is Phase.OPEN
        if is_probe:
            self.phase = Phase.HALF_OPEN
        return is_probe

    def record_success(self) -> None:
        """Note that the job server has answered, whatever it said."""
        self._failures = 0
        if self.phase is not Phase.CLOSED:
            _log.info("the job server is back; circuit closed")
            self.phase, self._pause = Phase.CLOSED, FIRST_PAUSE

    def record_failure(self, *, is_probe: bool) -> None:
        """Note that a start call got no answer, or an error of the server.

        :param is_probe: what :meth:`before_call` returned.
        """
        self._failures += 1
        if is_probe and self.phase is Phase.HALF_OPEN:
            self._pause = min(2 * self._pause, MAX_PAUSE)
            self._open()
        elif self.phase is Phase.CLOSED and self._failures >= THRESHOLD:
            _log.error("no answer to {count} starts in a row; circuit open", count=self._failures)
            self._open()
            self.when_open()

    def record_nothing(self, *, is_probe: bool) -> None:
        """Note that a start call said nothing about the job server."""
        if is_probe and self.phase is Phase.HALF_OPEN:
            self.phase = Phase.OPEN

    def _open(self) -> None:
        self.phase = Phase.OPEN
        self._until = self._clock.seconds() + self._pause * self._random.uniform(0.5, 1.0)
