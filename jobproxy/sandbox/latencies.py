"""Latencies of any number of jobs in bounded memory, counted in buckets."""

import math
from bisect import bisect_right
from itertools import accumulate

from attrs import define, field

#: Below 2 to this power each microsecond has a bucket of its own; above, a bucket is at most 0.2 %
#: of its values wide.
_BITS = 10
_MICROSECONDS = 1_000_000


@define(eq=False)
class Latencies:
    """Counts latencies; up to a day they need at most 15,000 buckets.

    :ivar minimum: exact, as are ``maximum`` and ``total``; infinite if there are no latencies.
    """

    _counts: dict[int, int] = field(factory=dict, init=False, repr=False)
    count: int = field(default=0, init=False)
    total: float = field(default=0.0, init=False)
    minimum: float = field(default=math.inf, init=False)
    maximum: float = field(default=0.0, init=False)

    def observe(self, seconds: float) -> None:
        """Count a latency."""
        value = int(seconds * _MICROSECONDS)
        shift = value.bit_length() - _BITS
        # The last value of the bucket is its name.
        bucket = value if shift <= 0 else ((value >> shift) + 1 << shift) - 1
        self._counts[bucket] = self._counts.get(bucket, 0) + 1
        self.count += 1
        self.total += seconds
        self.minimum = min(self.minimum, seconds)
        self.maximum = max(self.maximum, seconds)

    @property
    def mean(self) -> float | None:
        return self.total / self.count if self.count else None

    def percentiles(self, *percents: float) -> list[float | None]:
        """Return percentiles by the nearest rank: never less than the exact ones."""
        if not self.count:
            return [None] * len(percents)
        buckets = sorted(self._counts)
        ranks = list(accumulate(self._counts[bucket] for bucket in buckets))
        found: list[float | None] = []
        for percent in percents:
            # Rounded, as 99.9 % of 1000 would else be a little more than 999.
            rank = max(1, math.ceil(round(self.count * percent / 100, 6)))
            bucket = buckets[bisect_right(ranks, rank - 1)]
            # A bucket's values end below the next microsecond.
            found.append(min(self.maximum, (bucket + 1) / _MICROSECONDS))
        return found

    def bars(self, number: int) -> list[tuple[float, int]]:
        """Return the counts of some ranges from the minimum to the maximum, each with its end.

        The ends grow by the same factor, so that both the bulk and the tail can be seen.
        """
        if not self.count:
            return []
        low, high = max(self.minimum, 1 / _MICROSECONDS), self.maximum
        if high <= low:
            return [(high, self.count)]
        factor = (high / low) ** (1 / number)
        ends = [low * factor**step for step in range(1, number)]
        counts = [0] * number
        for bucket, count in self._counts.items():
            counts[bisect_right(ends, bucket / _MICROSECONDS)] += count
        return list(zip([*ends, high], counts, strict=True))
