"""Retries: which start requests may be sent again, and after what pause.

``upstream/starts.py`` sends them only while a client waits for the job.
"""

from enum import Enum
from random import Random

from attrs import field, frozen

from jobproxy.util.backoff import Backoff

#: Seconds of the first pause, and of any later one, at most; the jitter is full.
FIRST_PAUSE = 0.2
MAX_PAUSE = 5.0


class RetryMode(Enum):
    """Which start requests are sent again: the values of ``--retry``."""

    NEVER = "never"
    #: Those that the job server certainly did not read: at most once.
    NOT_SENT = "not-sent"
    #: Ambiguous ones too: at least once.
    ALWAYS = "always"


class OnLost(Enum):
    """What happens to a started job whose callback does not come: the values of ``--on-lost``."""

    FAIL = "fail"
    RESTART = "restart"


@frozen
class RetryPolicy:
    """Decides whether and when a start request is sent again.

    :param attempts: the maximum number of start requests for one job, for whatever reason.
    :param lost_after: seconds without any news of a started job after which it is started again;
        :data:`None`: never.
    :param random: the source of the jitter, so that what failed together is not retried together.
    """

    retry: RetryMode
    attempts: int
    lost_after: float | None
    random: Random = field(repr=False)
    _backoff: Backoff = field(init=False, repr=False)

    @_backoff.default
    def _make_backoff(self) -> Backoff:
        return Backoff(FIRST_PAUSE, MAX_PAUSE, self.random)

    def allows(self, attempts: int, *, is_ambiguous: bool) -> bool:
        """Return whether another start request may be sent.

        :param attempts: how many were sent.
        :param is_ambiguous: whether one of them may have been read.
        """
        least = RetryMode.ALWAYS if is_ambiguous else RetryMode.NOT_SENT
        order = list(RetryMode)
        return attempts < self.attempts and order.index(self.retry) >= order.index(least)

    def restarts_after(self, attempts: int) -> float | None:
        """Return the seconds without news after which a started job is started again.

        :param attempts: how many start requests were sent.
        :return: :data:`None`: it is not.
        """
        return self.lost_after if attempts < self.attempts else None

    def pause(self, attempts: int) -> float:
        """Return the seconds until the next start request.

        :param attempts: how many were sent, 1 or more.
        """
        return self._backoff.pause(attempts)
