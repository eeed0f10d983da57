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

#: Failures in a row that open the circuit.
THRESHOLD = 10
#: Server errors open it only if they are those of so many accounts: one account whose jobs fail is
#: no reason to start no other.
MIN_ACCOUNTS = 3
#: Lost connections open it only after so many seconds: meanwhile callbacks may show that the jobs
#: were started all the same.
PATIENCE = 5.0
#: Seconds until the first probe, and until any later one at most; jitter shortens them by up to
#: half.
FIRST_PAUSE = 1.0
MAX_PAUSE = 30.0
#: Seconds for which the probe is left to an account whose start requests did not open the circuit.
RESERVED = 1.0


class Phase(Enum):
    """The states of the circuit."""

    #: All start requests are sent.
    CLOSED = "closed"
    #: None is sent until the pause is over.
    OPEN = "open"
    #: The pause is over. The next start request is the probe, or it is under way, and no other one
    #: is sent.
    HALF_OPEN = "half-open"


@define(eq=False)
class _Run:
    """Failures of one kind in a row.

    :ivar since: when the first of them was sent.
    :ivar accounts: some of the accounts whose start requests they were.
    :ivar is_out_of_reach: whether some of them could not even be sent, for which no account is the
        reason.
    """

    since: float
    count: int = 0
    is_out_of_reach: bool = False
    accounts: set[str] = field(factory=set, repr=False)


@define(eq=False)
class Circuit:
    """Opens when the job server does not work; after each pause it lets one probe through.

    It opens after :data:`THRESHOLD` start requests in a row without a complete response, or with a
    server error. A complete response shows that the job server can be reached, whatever its status;
    and so does a callback.

    :param random: the source of the jitter, so that several proxies do not probe at once.
    :param on_open: is called when the circuit opens, but not when a probe fails.
    :ivar is_in_doubt: whether there were failures since the last sign of life.
    """

    _clock: IReactorTime
    _random: Random
    _on_open: Callable[[], object] = do_nothing
    is_in_doubt: bool = field(default=False, init=False)
    _is_open: bool = field(default=False, init=False)
    _is_probing: bool = field(default=False, init=False)
    #: Start requests without a complete response, and those with a server error.
    _silence: _Run | None = field(default=None, init=False)
    _errors: _Run | None = field(default=None, init=False)
    #: What opened the circuit, and some of the accounts whose start requests did; none if nothing
    #: could be sent, for which no account is the reason.
    _opened_by: Health = field(default=Health.UNKNOWN, init=False)
    _openers: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    _failures: int = field(default=0, init=False)
    _failed_probes: int = field(default=0, init=False)
    #: When the next probe may be sent, in seconds on the clock.
    _retry_at: float = field(default=0.0, init=False)
    _backoff: Backoff = field(init=False)

    @_backoff.default
    def _make_backoff(self) -> Backoff:
        return Backoff(FIRST_PAUSE, MAX_PAUSE, self._random, least=0.5)

    @property
    def phase(self) -> Phase:
        if not self._is_open:
            return Phase.CLOSED
        is_over = self._is_probing or self._retry_at <= self._clock.seconds()
        return Phase.HALF_OPEN if is_over else Phase.OPEN

    @property
    def allows(self) -> bool:
        """Whether a start request may be sent now, be it as the probe."""
        return not self._is_open or self._may_probe("")

    def check_allowed(self, account: str) -> None:
        """Raise if a start request of an account may not be sent now.

        :raises NotStarted: with ``retry_after`` in whole seconds.
        """
        if self._is_open and not self._may_probe(account):
            left = self._retry_at - self._clock.seconds()
            problem = Problem(
                Kind.UPSTREAM_UNREACHABLE,
                f"The last {self._failures} start requests failed, so none is sent until the job "
                "server responds to a probe; the job was not started.",
                retry_after=max(1, math.ceil(left)),
            )
            raise NotStarted(problem, "unreachable", Health.UNKNOWN, may_retry=True)

    def before_call(self, account: str) -> bool:
        """Admit a start request; exactly one of the ``record_`` methods has to follow.

        :return: whether it is the probe, to be passed to the ``record_`` method.
        :raises NotStarted: if it may not be sent.
        """
        if not self._is_open:
            return False
        self.check_allowed(account)
        self._is_probing = True
        return True

    def record_success(self) -> None:
        """Record that the job server responded, with whatever but a server error.

        Closes the circuit, also when the start request was sent before it opened.
        """
        if self.is_in_doubt:
            self._silence = self._errors = None
            self._failures, self.is_in_doubt = 0, False
            self._close()

    def record_callback(self) -> None:
        """Record that a callback came: the job server lives, and the next start may probe it."""
        self._silence = self._errors = None
        self._failures, self.is_in_doubt = 0, self._is_open
        self._retry_at = min(self._retry_at, self._clock.seconds())

    def record_failure(self, health: Health, account: str, since: float, *, is_probe: bool) -> None:
        """Record that a start request got no complete response, or a server error.

        :param health: ``DEAD``, ``LOST`` or ``ERROR``.
        :param since: when it was sent.
        :param is_probe: what :meth:`before_call` returned.
        """
        self.is_in_doubt = True
        self._failures += 1
        run = self._count(health, account, since)
        if is_probe and self._is_probing:
            self._is_probing = False
            if health is Health.ERROR and self._opened_by is not Health.ERROR:
                # It was out of reach, and is not any more.
                self._close()
            else:
                self._failed_probes += 1
                self._open(health, run)
        elif not self._is_open and self._is_enough(health, run):
            _log.error("{count} start requests in a row failed; circuit open", count=run.count)
            self._open(health, run)
            self._on_open()

    def record_nothing(self, *, is_probe: bool) -> None:
        """Record that a start request ended without news of the job server.

        The next start request then becomes the probe in its place.

        :param is_probe: what :meth:`before_call` returned.
        """
        if is_probe:
            self._is_probing = False

    def _may_probe(self, account: str) -> bool:
        if 0 < len(self._openers) < MIN_ACCOUNTS and account not in self._openers:
            # Perhaps only the jobs of those accounts fail; the others need not wait for that.
            return True
        at = self._retry_at + (RESERVED if account in self._openers else 0.0)
        return not self._is_probing and at <= self._clock.seconds()

    def _count(self, health: Health, account: str, since: float) -> _Run:
        if health is Health.ERROR:
            self._silence = None
            run = self._errors = self._errors or _Run(since)
        else:
            run = self._silence = self._silence or _Run(since)
        run.count += 1
        run.since = min(run.since, since)
        run.is_out_of_reach |= health is Health.DEAD
        if len(run.accounts) < MIN_ACCOUNTS:
            run.accounts.add(account)
        return run

    def _is_enough(self, health: Health, run: _Run) -> bool:
        """Whether these failures open the circuit, the last of which was of this kind."""
        if run.count < THRESHOLD:
            return False
        if health is Health.ERROR:
            return len(run.accounts) >= MIN_ACCOUNTS
        return health is Health.DEAD or self._clock.seconds() - run.since >= PATIENCE

    def _open(self, health: Health, run: _Run) -> None:
        self._is_open = True
        self._opened_by = health
        self._openers = frozenset(() if run.is_out_of_reach else run.accounts)
        self._retry_at = self._clock.seconds() + self._backoff.pause(self._failed_probes + 1)

    def _close(self) -> None:
        if self._is_open:
            _log.info("job server is reachable again; circuit closed")
            self._is_open = self._is_probing = False
            self._failed_probes, self._openers = 0, frozenset()
