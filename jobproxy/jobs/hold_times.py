"""How long a client is held."""

from attrs import frozen

from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.states import State
from jobproxy.wire.preferences import Preferences


@frozen
class HoldTimes:
    """Decides the deadline of each client.

    :param longest: seconds; no client is held for more.
    :param grace: seconds that are left for the callback once the start is ambiguous and no other
        start request will follow.
    """

    longest: float
    grace: float

    def of(self, preferences: Preferences) -> float:
        """Return the most seconds that a client with these preferences is held."""
        if preferences.wait is None:
            return self.longest
        return min(preferences.wait, self.longest)

    def for_job(self, record: JobRecord, preferences: Preferences) -> float:
        """Return for how many seconds from now a client of this job is held."""
        seconds = self.of(preferences)
        if record.state is State.UNCONFIRMED and record.cancel_start is None:
            return min(seconds, self.grace)
        return seconds
