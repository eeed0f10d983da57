"""The operator's side: health, metrics, jobs under way, and results that nobody collected."""

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from attrs import define, field
from klein import Klein
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from jobproxy.api.responses import respond
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.record import JobRecord, State
from jobproxy.monitoring.metrics import CONTENT_TYPE, render
from jobproxy.monitoring.probes import Probes
from jobproxy.monitoring.status import Feed, Status
from jobproxy.store.interface import Orphan
from jobproxy.wire.problems import FieldError, Forbidden, InvalidRequest, NotFound

MAX_LISTED = 1_000


@define(eq=False)
class HealthRoutes:
    """Tells whether the proxy turns, and whether it wants jobs."""

    _probes: Probes

    def add_to(self, app: Klein) -> None:
        app.route("/healthz", methods=["GET"])(self.tell_health)
        app.route("/readyz", methods=["GET"])(self.tell_readiness)

    def tell_health(self, request: Request) -> bytes:
        return _answer(request, {"status": "ok"})

    def tell_readiness(self, request: Request) -> bytes:
        """Answer 503, with the reasons, while jobs had better go to another proxy."""
        reasons = self._probes.reasons_not_ready()
        status = {"status": "not-ready" if reasons else "ready", "reasons": reasons}
        return _answer(request, status, 503 if reasons else 200)


@define(eq=False)
class MetricsRoutes:
    """Serves what Prometheus wants to know."""

    _registry: CollectorRegistry

    def add_to(self, app: Klein) -> None:
        app.route("/metrics", methods=["GET"])(self.tell_metrics)

    def tell_metrics(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", CONTENT_TYPE)
        return render(self._registry)


@define(eq=False)
class StatusRoutes:
    """Serves the status, once or as it changes."""

    _status: Status
    _feed: Feed

    def add_to(self, app: Klein) -> None:
        app.route("/status", methods=["GET"])(self.tell_status)
        app.route("/events", methods=["GET"])(self.watch)

    def tell_status(self, request: Request) -> bytes:
        return _answer(request, self._status.describe())

    def watch(self, request: Request) -> bytes | Deferred[bytes]:
        """Answer with an event every second, until the client leaves."""
        request.setHeader(b"Content-Type", b"text/event-stream")
        request.setHeader(b"Cache-Control", b"no-store")
        # nginx would else keep the events until it has a page of them.
        request.setHeader(b"X-Accel-Buffering", b"no")
        return b"" if request.method == b"HEAD" else self._feed.watch(request)


@define(eq=False)
class PageRoutes:
    """Serves the live page, which shows the feed of the status."""

    _page: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._page = files("jobproxy.monitoring").joinpath("page.html").read_bytes()

    def add_to(self, app: Klein) -> None:
        app.route("/", methods=["GET"])(self.show_page)

    def show_page(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        request.setHeader(
            b"Content-Security-Policy",
            b"default-src 'none'; connect-src 'self'; script-src 'unsafe-inline'; "
            b"style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
        )
        return self._page


@define(eq=False)
class JobListRoutes:
    """Serves the jobs that have not ended."""

    _gateway: Gateway
    _clock: IReactorTime

    def add_to(self, app: Klein) -> None:
        app.route("/jobs", methods=["GET"])(self.list_jobs)

    def list_jobs(self, request: Request) -> bytes:
        """Tell of some, the oldest first, and how many there are; ages are in seconds."""
        state, limit = _read_query(request)
        found = [
            record
            for record in self._gateway.table.unended()
            if state is None or record.state is state
        ]
        jobs = [self._describe(record) for record in found[:limit]]
        return _answer(request, {"jobs": jobs, "total": len(found)})

    def _describe(self, record: JobRecord) -> dict[str, Any]:
        described = {
            "job": record.job_id,
            "id": record.upstream_id,
            "state": record.state.value,
            "age": round(self._clock.seconds() - record.created, 3),
            "waiting": len(record.waiters),
            "requestId": record.origin.request_id.decode(),
        }
        if record.origin.account is not None:
            described["account"] = record.origin.account
        return described


@define(eq=False)
class DrainRoutes:
    """Lets an operator end the process.

    :param leave: does what the signal to stop does; is called once.
    """

    _gateway: Gateway
    _leave: Callable[[], object]
    _is_told: bool = field(default=False, init=False)

    def add_to(self, app: Klein) -> None:
        app.route("/drain", methods=["POST"])(self.drain)

    def drain(self, request: Request) -> bytes:
        """Have the process drain; to say it again changes nothing."""
        _check_origin(request)
        if not self._is_told:
            self._is_told = True
            self._leave()
        return _answer(request, {"status": "draining", "held": self._gateway.table.held}, 202)


@define(eq=False)
class OrphanRoutes:
    """Serves the results that came when nobody waited for them any more."""

    _gateway: Gateway

    def add_to(self, app: Klein) -> None:
        app.route("/orphans", methods=["GET"])(self.list_orphans)
        app.route("/orphans/<job_id>", methods=["GET"])(self.show)
        app.route("/orphans/<job_id>", methods=["DELETE"])(self.drop)

    async def list_orphans(self, request: Request) -> bytes:
        """Tell which there are, the oldest first; ages are in seconds."""
        orphans = [_describe(orphan) for orphan in await self._gateway.list_orphans()]
        return _answer(request, {"orphans": orphans})

    async def show(self, request: Request, job_id: str) -> bytes:
        """Answer with a result as it came; it stays."""
        return respond(request, await self._find(job_id))

    async def drop(self, request: Request, job_id: str) -> bytes:
        _check_origin(request)
        await self._find(job_id)
        await self._gateway.drop_orphan(job_id)
        request.setResponseCode(204)
        return b""

    async def _find(self, job_id: str) -> bytes:
        body = await self._gateway.find_orphan(job_id)
        if body is None:
            raise NotFound
        return body


def _describe(orphan: Orphan) -> dict[str, Any]:
    return {
        "job": orphan.job_id,
        "id": orphan.upstream_id,
        "age": round(orphan.age, 3),
        "bytes": len(orphan.body),
    }


def _check_origin(request: Request) -> None:
    """Refuse what a web page sends: a browser says where it comes from (Fetch, section 3.2)."""
    if request.getHeader(b"origin") is not None:
        raise Forbidden("This can be done from the command line, but not by a web page.")


def _read_query(request: Request) -> tuple[State | None, int]:
    """Return the state and the number of jobs that are asked for."""
    query = {name.decode("latin-1"): values for name, values in request.args.items()}
    state = query.pop("state", [b""])[-1].decode("latin-1")
    limit = query.pop("limit", [b"100"])[-1].decode("latin-1")
    states = [known.value for known in State if known is not State.ENDED]
    errors = [FieldError(f"/{name}", "There is no such parameter.") for name in query]
    if state and state not in states:
        errors.append(FieldError("/state", f"Must be one of {', '.join(states)}."))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MAX_LISTED):
        errors.append(FieldError("/limit", f"Must be a number from 1 to {MAX_LISTED}."))
    if errors:
        raise InvalidRequest("The query is not valid; see errors.", errors=errors)
    return State(state) if state else None, int(limit)


def _answer(request: Request, content: dict[str, Any], status: int = 200) -> bytes:
    return respond(request, json.dumps(content).encode(), status)
