"""The operator's routes: health, metrics, status, jobs, orphans and drain."""

import re
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from attrs import define, field
from klein import Klein
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from jobproxy.api.responses import respond_json, send_report
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.record import JobRecord
from jobproxy.jobs.states import ENDED, State
from jobproxy.monitoring.history import History
from jobproxy.monitoring.metrics import CONTENT_TYPE, render_metrics
from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.status import Feed, Status
from jobproxy.monitoring.watch import Watch
from jobproxy.store.orphans import START, Orphan, Position, parse_position
from jobproxy.wire.problems import FieldError, Kind, Problem, ProblemError
from jobproxy.wire.reports import read_stored

#: The largest ``limit`` of ``GET /jobs`` and ``GET /orphans``.
MAX_LISTED = 1_000


Parameter = TypeVar("Parameter")


@define(eq=False)
class HealthRoutes:
    """Serves the health and the readiness of the process."""

    side: ClassVar = "admin"
    _probes: Probes
    _watch: Watch

    def add_to(self, app: Klein) -> None:
        app.route("/healthz", methods=["GET"])(self.get_health)
        app.route("/readyz", methods=["GET"])(self.get_readiness)

    def get_health(self, request: Request) -> bytes:
        return respond_json(request, {"status": "ok"})

    def get_readiness(self, request: Request) -> bytes:
        """Respond 503 with the reasons while the proxy does not accept new jobs.

        Warnings are about what another proxy would suffer from, too.
        """
        reasons = self._probes.reasons_not_ready()
        status: dict[str, Any] = {"status": "not-ready" if reasons else "ready"}
        status["reasons"] = reasons
        warnings = self._probes.list_warnings()
        if warnings:
            status["warnings"] = warnings
        status["verdict"] = self._watch.look().describe()
        return respond_json(request, status, 503 if reasons else 200)


@define(eq=False)
class MetricsRoutes:
    """Serves the metrics for Prometheus."""

    side: ClassVar = "admin"
    _registry: CollectorRegistry

    def add_to(self, app: Klein) -> None:
        app.route("/metrics", methods=["GET"])(self.get_metrics)

    def get_metrics(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", CONTENT_TYPE)
        return render_metrics(self._registry)


@define(eq=False)
class StatusRoutes:
    """Serves the status, once or as server-sent events, and its history."""

    side: ClassVar = "admin"
    _status: Status
    _history: History
    _feed: Feed

    def add_to(self, app: Klein) -> None:
        app.route("/status", methods=["GET"])(self.get_status)
        app.route("/history", methods=["GET"])(self.get_history)
        app.route("/events", methods=["GET"])(self.watch_status)

    def get_status(self, request: Request) -> bytes:
        return respond_json(request, self._status.describe())

    def get_history(self, request: Request) -> bytes:
        return respond_json(request, self._history.describe())

    def watch_status(self, request: Request) -> bytes | Deferred[bytes]:
        """Send an event at once and then every second, until the client leaves."""
        request.setHeader(b"Content-Type", b"text/event-stream")
        request.setHeader(b"Cache-Control", b"no-store")
        # Otherwise nginx would buffer the events.
        request.setHeader(b"X-Accel-Buffering", b"no")
        return b"" if request.method == b"HEAD" else self._feed.watch(request)


@define(eq=False)
class JobListRoutes:
    """Serves the list of jobs that have not ended."""

    side: ClassVar = "admin"
    _gateway: Gateway
    _clock: IReactorTime

    def add_to(self, app: Klein) -> None:
        app.route("/jobs", methods=["GET"])(self.list_jobs)

    def list_jobs(self, request: Request) -> bytes:
        """Respond with the oldest jobs and the number of all; ages are in seconds."""
        state, limit = _read_query(request, "state", _read_state)
        found = [
            record
            for record in self._gateway.table.unended()
            if not record.is_copy and state in (None, record.state.word)
        ]
        jobs = [self._describe(record) for record in found[:limit]]
        return respond_json(request, {"jobs": jobs, "total": len(found)})

    def _describe(self, record: JobRecord) -> dict[str, Any]:
        described = {
            "job": record.job_id,
            "id": record.upstream_id,
            "state": record.state.word,
            "age": round(self._clock.seconds() - record.created, 3),
            "waiting": len(record.waiters),
            "requestId": record.origin.request_id.decode(),
        }
        if record.origin.account is not None:
            described["account"] = record.origin.account
        return described


@define(eq=False)
class DrainRoutes:
    """Lets an operator drain and stop the process.

    :param stop: stops the process as the first SIGTERM does; is called once.
    """

    side: ClassVar = "admin"
    _gateway: Gateway
    _stop: Callable[[], object]
    _is_stopping: bool = field(default=False, init=False)

    def add_to(self, app: Klein) -> None:
        app.route("/drain", methods=["POST"])(self.drain)

    def drain(self, request: Request) -> bytes:
        """Start to drain; further requests have no effect."""
        _check_origin(request)
        if not self._is_stopping:
            self._is_stopping = True
            self._stop()
        return respond_json(
            request, {"status": "draining", "held": self._gateway.table.clients.held}, 202
        )


@define(eq=False)
class OrphanRoutes:
    """Serves the orphans."""

    side: ClassVar = "admin"
    _gateway: Gateway

    def add_to(self, app: Klein) -> None:
        app.route("/orphans", methods=["GET"])(self.list_orphans)
        app.route("/orphans/<job_id>", methods=["GET"])(self.get_orphan)
        app.route("/orphans/<job_id>", methods=["DELETE"])(self.delete_orphan)

    async def list_orphans(self, request: Request) -> bytes:
        """Respond with a page of orphans, the oldest first; ages are in seconds."""
        after, limit = _read_query(request, "after", _read_position)
        page = await self._gateway.coordinator.list_orphans(limit, after)
        orphans = page.orphans
        following = str(orphans[-1].position) if len(orphans) == limit else None
        listed = [_describe(orphan) for orphan in orphans]
        content = {"orphans": listed, "next": following, "partial": page.is_partial}
        return respond_json(request, content)

    async def get_orphan(self, request: Request, job_id: str) -> bytes:
        """Respond with the result of an orphan; it is kept."""
        return send_report(request, read_stored(await self._find(job_id)))

    async def delete_orphan(self, request: Request, job_id: str) -> bytes:
        _check_origin(request)
        await self._find(job_id)
        await self._gateway.coordinator.drop_orphan(job_id)
        request.setResponseCode(204)
        return b""

    async def _find(self, job_id: str) -> bytes:
        body = await self._gateway.coordinator.find_orphan(job_id)
        if body is None:
            detail = (
                "This job has no orphan; one may have been dropped or fetched, or have expired."
            )
            raise ProblemError(Problem(Kind.JOB_UNKNOWN, detail, started="unknown"))
        return body


def _describe(orphan: Orphan) -> dict[str, Any]:
    return {
        "job": orphan.job_id,
        "id": orphan.upstream_id,
        "age": round(orphan.age, 3),
        "bytes": orphan.size,
    }


def _check_origin(request: Request) -> None:
    """Refuse requests of web pages, which have an Origin (Fetch, section 3.2).

    :raises ProblemError: if it is one.
    """
    if request.getHeader(b"origin") is not None:
        detail = "A web page must not do this; use the command line."
        raise ProblemError(Problem(Kind.FORBIDDEN, detail))


def _read_query(
    request: Request, name: str, read: Callable[[str], Parameter]
) -> tuple[Parameter, int]:
    """Return the value of a parameter, and the limit of the query.

    :param read: returns the value; raises :class:`ValueError` with what to change.
    :raises ProblemError: if a parameter is unknown or invalid.
    """
    query = {name.decode("latin-1"): values for name, values in request.args.items()}
    text = query.pop(name, [b""])[-1].decode("latin-1")
    limit = query.pop("limit", [b"100"])[-1].decode("latin-1")
    errors = [FieldError(f"/{unknown}", "Unknown parameter.") for unknown in query]
    try:
        value = read(text)
    except ValueError as error:
        errors.append(FieldError(f"/{name}", str(error)))
    # Python refuses to parse thousands of digits.
    number = int(limit) if re.fullmatch("[0-9]{1,9}", limit) else 0
    if not 1 <= number <= MAX_LISTED:
        errors.append(FieldError("/limit", f"Must be a number from 1 to {MAX_LISTED}."))
    if errors:
        detail = "The query is invalid; see errors."
        raise ProblemError(Problem(Kind.INVALID_REQUEST, detail, errors=tuple(errors)))
    return value, number


def _read_state(text: str) -> str | None:
    states = list(dict.fromkeys(known.word for known in State if known not in ENDED))
    if text and text not in states:
        raise ValueError(f"Must be one of {', '.join(states)}.")
    return text or None


def _read_position(text: str) -> Position:
    if not text:
        return START
    try:
        return parse_position(text)
    except ValueError:
        raise ValueError("Must be the value of next in the page before.") from None
