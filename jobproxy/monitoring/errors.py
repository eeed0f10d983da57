"""Errors by type: how many in the last minute and hour, since when, and a request to look up."""

from collections import deque
from collections.abc import Iterator
from typing import Any

from attrs import define, field

from jobproxy.monitoring.reasons import FAILURES
from jobproxy.wire.problems import Kind

#: Seconds of a bucket, and how many buckets an hour has.
BUCKET, BUCKETS = 10.0, 360
#: The section of the runbook for errors that are no reason of a verdict.
_SECTIONS = {
    Kind.ACCOUNT_QUEUE_FULL.slug: "JobproxyRefusing",
    Kind.DRAINING.slug: "JobproxyNoJobs",
    Kind.CALLBACK_CONFLICT.slug: "JobproxyConflicts",
    Kind.UNSIGNED.slug: "JobproxyForgedCallbacks",
    **{slug: reason.section for reason, (slugs, _) in FAILURES.items() for slug in slugs},
}


@define(eq=False)
class _Tally:
    """The errors of one type.

    :ivar buckets: the numbers of the buckets of the last hour that are not empty, and their counts.
    """

    first: float
    last: float
    status: int
    request_id: bytes
    count: int = 0
    buckets: deque[list[int]] = field(factory=lambda: deque(maxlen=BUCKETS))

    def count_since(self, time: float) -> int:
        return sum(count for bucket, count in self.buckets if (bucket + 1) * BUCKET > time)


@define(eq=False)
class Errors:
    """Counts errors by who gets them and by type; there are only as many types as in the code."""

    _tallies: dict[tuple[str, str], _Tally] = field(factory=dict, init=False)

    def add(self, side: str, status: int, outcome: str, request_id: bytes, now: float) -> None:
        """Count an error.

        :param side: who gets it; empty: it is not known who sent the request.
        :param now: Unix time in seconds.
        """
        tally = self._tallies.get((side, outcome))
        if tally is None:
            tally = self._tallies[side, outcome] = _Tally(now, now, status, request_id)
        tally.last, tally.status, tally.request_id = now, status, request_id
        tally.count += 1
        bucket = int(now // BUCKET)
        if tally.buckets and tally.buckets[-1][0] == bucket:
            tally.buckets[-1][1] += 1
        else:
            tally.buckets.append([bucket, 1])

    def describe(self, now: float) -> list[dict[str, Any]]:
        """Return the types, the last one first."""
        return sorted(self._describe(now), key=lambda each: -each["last"])

    def _describe(self, now: float) -> Iterator[dict[str, Any]]:
        for (side, outcome), tally in self._tallies.items():
            yield {
                "side": side,
                "type": outcome,
                "status": tally.status,
                "minute": tally.count_since(now - 60),
                "hour": tally.count_since(now - 3600),
                "total": tally.count,
                "first": round(tally.first, 3),
                "last": round(tally.last, 3),
                "requestId": tally.request_id.decode(),
                # What the runbook does not know is wrong with the request itself.
                "runbook": _SECTIONS.get(outcome),
            }
