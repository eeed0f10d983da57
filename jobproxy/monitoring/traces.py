"""OpenTelemetry traces: the spans of each job, which are made when it has ended.

A job in progress costs nothing: its record has all times. The spans join the client's trace if it
has sent a ``traceparent`` (W3C Trace Context).
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from attrs import define, field
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime

from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.states import State

_PROPAGATOR = TraceContextTextMapPropagator()


@define(eq=False)
class Traces(Service):
    """Makes the spans of jobs, while the service runs.

    :param now: returns Unix time in seconds.
    :param begin: returns what makes spans, and what sends the last ones at the end; is called when
        the service starts, as threads do not survive the fork of a daemon.
    """

    _clock: IReactorTime
    _now: Callable[[], float]
    _begin: Callable[[], tuple[Tracer, Callable[[], Any]]]
    _tracer: Tracer | None = field(default=None, init=False)
    _end: Callable[[], Any] = field(default=lambda: None, init=False)
    #: The jobs that have failed, whose result can still come.
    _failed: "WeakSet[JobRecord]" = field(factory=WeakSet, init=False, repr=False)

    def startService(self) -> None:
        super().startService()
        self._tracer, self._end = self._begin()

    def stopService(self) -> Deferred[Any]:
        super().stopService()
        self._tracer = None
        return maybeDeferred(self._end)

    def trace(self, record: JobRecord) -> None:
        """Make the spans of a job that has just ended."""
        if self._tracer is None or record.is_copy or record.state is State.FORGOTTEN:
            return
        is_late = record in self._failed
        if record.problem is not None:
            self._failed.add(record)
        parent = Context()
        if record.origin.traceparent is not None:
            carrier = {"traceparent": record.origin.traceparent.decode("latin-1")}
            parent = _PROPAGATOR.extract(carrier, parent)
        ended = record.ended or record.created
        if is_late:
            self._add("late result", (ended, ended), parent, record)
            return
        root = self._add("job", (record.created, ended), parent, record, SpanKind.SERVER)
        for name, begin, end in (
            ("queue", record.created, record.sent),
            ("start", record.sent, record.acked),
            ("run", record.acked, ended),
        ):
            if begin is not None:
                is_start = name == "start"
                kind = SpanKind.CLIENT if is_start else SpanKind.INTERNAL
                last = ended if end is None else end
                self._add(name, (begin, last), root, record if is_start else None, kind)

    def _add(
        self,
        name: str,
        times: tuple[float, float],
        parent: Context,
        record: JobRecord | None,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> Context:
        """Make a span; return the context of its children."""
        assert self._tracer is not None
        span = self._tracer.start_span(
            name,
            parent,
            kind,
            None if record is None else describe(record),
            None,
            self._at(times[0]),
        )
        if record is not None:
            for time, result in record.failed_starts if kind is SpanKind.CLIENT else ():
                span.add_event(f"start request failed: {result}", None, self._at(time))
            if record.problem is not None:
                span.set_status(StatusCode.ERROR, record.problem.slug)
        span.end(self._at(times[1]))
        return set_span_in_context(span, parent)

    def _at(self, time: float) -> int:
        """Return a time on the clock as Unix time in nanoseconds."""
        return int((self._now() - self._clock.seconds() + time) * 1e9)


def describe(record: JobRecord) -> dict[str, str]:
    """Return the attributes of a job's spans; accounts and results are never among them."""
    named = {
        "jobproxy.job_id": record.job_id,
        "jobproxy.upstream_id": record.upstream_id,
        "jobproxy.request_id": record.origin.request_id.decode("latin-1"),
        "jobproxy.profile": record.profile,
        "jobproxy.started": record.started,
        "jobproxy.outcome": record.outcome,
    }
    return {name: value for name, value in named.items() if value}
