"""The history of the process: the last hour in short steps, the last day in longer ones."""

from collections import deque
from typing import Any

from attrs import define, field

from jobproxy.monitoring.counts import STEP, Counts
from jobproxy.monitoring.reasons import State
from jobproxy.monitoring.verdict import Verdict
from jobproxy.util.histogram import BOUNDS
from jobproxy.wire.problems import Kind

#: The step in seconds and the number of points of each part.
PARTS = {"hour": (10.0, 360), "day": (300.0, 288)}
#: How many marks are kept.
MAX_MARKS = 200
#: What the numbers of a point are, in their order.
FIELDS = ("time", "held", "queued", "results", "failures", "p50", "p99", "lag", "state")
_FAILURES = frozenset(kind.slug for kind in Kind if kind.status >= 500)

Point = tuple[float | None, ...]


def estimate(quantile: float, now: list[int]) -> float | None:
    """Return a quantile of a histogram's counts, as Prometheus's ``histogram_quantile`` does.

    :return: in seconds; :data:`None` if there is nothing.
    """
    rank = quantile * sum(now)
    if not rank:
        return None
    low = 0.0
    for count, high in zip(now, BOUNDS, strict=False):
        if rank <= count:
            return low + (high - low) * rank / count
        rank, low = rank - count, high
    return low


@define(eq=False)
class _Part:
    """Points at equal steps.

    :ivar points: the newest last.
    """

    step: float
    points: deque[Point]
    _last: Counts
    _held: int = 0
    _queued: int = 0
    _state: State = State.OK

    def note(self, counts: Counts, state: State) -> None:
        """Note the most of a step."""
        self._held = max(self._held, counts.held)
        self._queued = max(self._queued, counts.queued)
        self._state = max(self._state, state, key=lambda each: each.rank)

    def add(self, counts: Counts) -> None:
        """Add a point if a step is over."""
        last = self._last
        seconds = counts.time - last.time
        # The timer may be a little early.
        if seconds < self.step - STEP / 2:
            return
        jobs, lag = (
            _subtract(counts.job_counts, last.job_counts),
            _subtract(counts.lag_counts, last.lag_counts),
        )
        failures = sum(
            count - last.outcomes.get(slug, 0)
            for slug, count in counts.outcomes.items()
            if slug in _FAILURES
        )
        quantiles = (estimate(0.5, jobs), estimate(0.99, jobs), estimate(0.99, lag))
        rates = (sum(jobs) / seconds, failures / seconds)
        numbers = (counts.unix, self._held, self._queued, *rates, *quantiles, self._state.rank)
        self.points.append(tuple(None if each is None else round(each, 3) for each in numbers))
        self._last = counts
        self._held = self._queued = 0
        self._state = State.OK


def _subtract(now: Any, then: Any) -> list[int]:
    return [count - (then[index] if then else 0) for index, count in enumerate(now)]


@define(eq=False)
class History:
    """What the page draws when it is opened. Its memory is bounded.

    :param first: the counts at the start of the process.
    """

    _first: Counts
    _parts: dict[str, _Part] = field(init=False)
    _marks: deque[tuple[float, str]] = field(init=False)
    #: The newest counts.
    _now: Counts = field(init=False)
    _broken: tuple[str, ...] = field(default=(), init=False)
    _is_draining: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._now = self._first
        self._parts = {
            name: _Part(step, deque(maxlen=number), self._first)
            for name, (step, number) in PARTS.items()
        }
        self._marks = deque([(self._first.unix, "started")], maxlen=MAX_MARKS)

    def note(self, counts: Counts, verdict: Verdict) -> None:
        """Note what may be over before the next point."""
        self._now = counts
        for part in self._parts.values():
            part.note(counts, verdict.state)
        broken = tuple(counts.broken)
        for name in broken:
            if name not in self._broken:
                self._marks.append((counts.unix, f"circuit open: {name}"))
        for name in self._broken:
            if name not in broken:
                self._marks.append((counts.unix, f"circuit closed: {name}"))
        self._broken = broken
        if "draining" in counts.reasons and not self._is_draining:
            self._is_draining = True
            self._marks.append((counts.unix, "drain"))

    def add(self, counts: Counts, verdict: Verdict) -> None:
        """Add the counts of now."""
        self.note(counts, verdict)
        for part in self._parts.values():
            part.add(counts)

    def describe(self) -> dict[str, Any]:
        """Return the document, which the OpenAPI document describes."""
        return {
            "time": round(self._now.unix, 3),
            "fields": FIELDS,
            **{
                name: {"step": part.step, "points": list(part.points)}
                for name, part in self._parts.items()
            },
            "marks": [{"time": round(time, 3), "text": text} for time, text in self._marks],
        }
