"""The circuit breaker: refuses start requests at once while the job server is down."""

import math
from collections.abc import Callable
from enum import Enum
from random import Random

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.upstream.start_errors import Health, NotStarted
from jobproxy.util.backoff import Backoff
from jobproxy.util.deadline import do_nothing
from jobproxy.wire.problems import Kind, Problem

_log = Logger()

#: Start requests in a row without a response, or with a server error, that open the circuit.
THRESHOLD = 10
#: Seconds until the first probe, and until any later one at most; jitter shortens them by up to
#: half.
FIRST_PAUSE = 1.0
MAX_PAUSE = 30.0


class Phase(Enum):
    """The states of the circuit."""

    #: All start requests are sent.
    CLOSED = "closed"
    #: None is sent until the pause is over; the first one after it is the probe.
    OPEN = "open"
    #: The probe is under way, and no other start request is sent.
    HALF_OPEN = "half-open"


@define(eq=False)
class Circuit:
    """Opens after :data:`THRESHOLD` failures in a row; after each pause it lets one probe through.

    :param random: the source of the jitter, so that several proxies do not probe at once.
    :param on_open: is called when the circuit opens, but not when a probe fails.
    """

    _clock: IReactorTime
    _random: Random
    _on_open: Callable[[], object] = do_nothing
    phase: Phase = field(default=Phase.CLOSED, init=False)
    _failures: int = field(default=0, init=False)
    _failed_probes: int = field(default=0, init=False)
    #: When the next probe may be sent, in seconds on the clock.
    _retry_at: float = field(default=0.0, init=False)
    _backoff: Backoff = field(init=False)

    @_backoff.default
    def _make_backoff(self) -> Backoff:
        return Backoff(FIRST_PAUSE, MAX_PAUSE, self._random, least=0.5)

    @property
    def allows(self) -> bool:
        """Whether a start request may be sent now, be it as the probe."""
        if self.phase is Phase.CLOSED:
            return True
        return self.phase is Phase.OPEN and self._retry_at <= self._clock.seconds()

    def check_allowed(self) -> None:
        """Raise if a start request may not be sent now.

        :raises NotStarted: with ``retry_after`` in whole seconds.
        """
        if not self.allows:
            left = self._retry_at - self._clock.seconds()
            problem = Problem(
                Kind.UPSTREAM_UNREACHABLE,
                f"The last {self._failures} start requests failed, so none is sent until the job "
                "server responds to a probe; the job was not started.",
                retry_after=max(1, math.ceil(left)),
            )
            raise NotStarted(problem, "circuit-open", Health.UNKNOWN, may_retry=True)

    def before_call(self) -> bool:
        """Admit a start request; exactly one of the ``record_`` methods has to follow.

        :return: whether it is the probe, to be passed to the ``record_`` method.
        :raises NotStarted: if it may not be sent.
        """
        if self.phase is Phase.CLOSED:
            return False
        self.check_allowed()
        self.phase = Phase.HALF_OPEN
        return True

    def record_success(self) -> None:
        """Record that the job server responded, with whatever but a server error.

        Closes the circuit, also when the start request was sent before it opened.
        """
        self._failures = 0
        if self.phase is not Phase.CLOSED:
            _log.info("job server is reachable again; circuit closed")
            self.phase, self._failed_probes = Phase.CLOSED, 0

    def record_failure(self, *, is_probe: bool) -> None:
        """Record that a start request got no response, or a server error.

        :param is_probe: what :meth:`before_call` returned.
        """
        self._failures += 1
        if is_probe and self.phase is Phase.HALF_OPEN:
            self._failed_probes += 1
            self._open()
        elif self.phase is Phase.CLOSED and self._failures >= THRESHOLD:
            _log.error("{count} start requests in a row failed; circuit open", count=self._failures)
            self._open()
            self._on_open()

    def record_nothing(self, *, is_probe: bool) -> None:
        """Record that a start request ended without news of the job server.

        The next start request then becomes the probe in its place.

        :param is_probe: what :meth:`before_call` returned.
        """
        if is_probe and self.phase is Phase.HALF_OPEN:
            self.phase = Phase.OPEN

    def _open(self) -> None:
        self.phase = Phase.OPEN
        self._retry_at = self._clock.seconds() + self._backoff.pause(self._failed_probes + 1)
