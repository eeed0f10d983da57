"""Histograms of durations, cheap enough to be updated for every job."""

from bisect import bisect_left
from itertools import accumulate

from attrs import define, field

#: Upper bounds of the buckets in seconds: from what a proxy adds to how long a client waits.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@define(eq=False)
class Histogram:
    """Counts durations by bucket.

    :ivar counts: the number of durations in each bucket, above the previous bound and up to its
        own; the last bucket has no upper bound.
    :ivar total: the sum of all durations in seconds.
    """

    counts: list[int] = field(factory=lambda: [0] * (len(BOUNDS) + 1), init=False)
    total: float = field(default=0.0, init=False)

    def observe(self, seconds: float) -> None:
        """Count a duration."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, int]]:
        """Return the cumulative count up to each bound, in the form that Prometheus expects."""
        bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))
