"""Retries: when a start may be sent again, and after how long."""

from enum import Enum
from random import Random

from attrs import field, frozen

#: Seconds up to which the first pause may take; twice as many for each next one.
FIRST_PAUSE = 0.2
MAX_PAUSE = 5.0


class Retry(Enum):
    """Which starts are sent again."""

    NEVER = "never"
    #: Those that certainly were not read: at most once.
    NOT_SENT = "not-sent"
    #: Those too whose outcome is not known: at least once.
    ALWAYS = "always"


class OnLost(Enum):
    """What becomes of a job that was started and whose callback does not come."""

    FAIL = "fail"
    RESTART = "restart"


@frozen
class RetryPolicy:
    """Says whether and when a start is sent again.

    :param attempts: start calls for one job, for whatever reason.
    :param lost_after: seconds without a word of a job until it is started again; :data:`None`: it
        never is.
    :param random: spreads the pauses, so that what failed together does not come back together.
    """

    retry: Retry
    attempts: int
    lost_after: float | None
    random: Random = field(repr=False)

    def allows(self, attempts: int, *, is_ambiguous: bool) -> bool:
        """Return whether another start call may follow those that were made."""
        least = Retry.ALWAYS if is_ambiguous else Retry.NOT_SENT
        order = list(Retry)
        return attempts < self.attempts and order.index(self.retry) >= order.index(least)

    def pause(self, attempts: int) -> float:
        """Return the seconds until the next start call: exponential, with full jitter."""
        return self.random.uniform(0.0, min(MAX_PAUSE, FIRST_PAUSE * 2 ** (attempts - 1)))
