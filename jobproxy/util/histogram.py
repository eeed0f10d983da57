"""Counts of what has happened, for whoever watches; cheap enough to be kept for every job."""

from bisect import bisect_left
from itertools import accumulate

from attrs import define, field

#: Upper bounds of durations, in seconds: from what a proxy adds to what a client waits.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@define(eq=False)
class Histogram:
    """How many durations were how long.

    :ivar counts: how many were longer than one bound and not longer than the next.
    :ivar total: of all durations, in seconds.
    """

    counts: list[int] = field(factory=lambda: [0] * (len(BOUNDS) + 1), init=False)
    total: float = field(default=0.0, init=False)

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, int]]:
        """Return how many durations there were up to each bound, as Prometheus wants it."""
        bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))
