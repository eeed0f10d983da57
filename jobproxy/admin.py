"""The operator's side: health, metrics, and the results that nobody collected."""

import json
from typing import Any

from attrs import define
from klein import Klein
from prometheus_client import CollectorRegistry
from twisted.internet.interfaces import IReactorTime

from jobproxy.answers import answer
from jobproxy.entries import Entry
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.metrics import CONTENT_TYPE, render
from jobproxy.problems import NotFound


@define(eq=False)
class HealthRoutes:
    """Tells whether the proxy turns, and whether it wants jobs."""

    _gateway: Gateway

    def add_to(self, app: Klein) -> None:
        app.route("/healthz", methods=["GET"])(self.tell_health)
        app.route("/readyz", methods=["GET"])(self.tell_readiness)

    def tell_health(self, request: Request) -> bytes:
        return _answer(request, {"status": "ok"})

    def tell_readiness(self, request: Request) -> bytes:
        """Answer 503, with the reasons, while jobs had better go to another proxy."""
        reasons = []
        if self._gateway.is_draining:
            reasons.append("draining")
        if not self._gateway.starter.job_server.circuit.is_passable:
            reasons.append("job-server-unreachable")
        status = {"status": "not-ready" if reasons else "ready", "reasons": reasons}
        return _answer(request, status, 503 if reasons else 200)


@define(eq=False)
class MetricsRoutes:
    """Serves what Prometheus wants to know."""

    _registry: CollectorRegistry

    def add_to(self, app: Klein) -> None:
        app.route("/metrics", methods=["GET"])(self.tell)

    def tell(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", CONTENT_TYPE)
        return render(self._registry)


@define(eq=False)
class OrphanRoutes:
    """Serves the results that came when nobody waited for them any more."""

    _gateway: Gateway
    _clock: IReactorTime

    def add_to(self, app: Klein) -> None:
        app.route("/orphans", methods=["GET"])(self.list_orphans)
        app.route("/orphans/<handle>", methods=["GET"])(self.show)
        app.route("/orphans/<handle>", methods=["DELETE"])(self.drop)

    def list_orphans(self, request: Request) -> bytes:
        """Tell which there are, the oldest first; ages are in seconds."""
        orphans = [self._describe(entry) for entry in self._gateway.table.orphans()]
        return _answer(request, {"orphans": orphans})

    def show(self, request: Request, handle: str) -> bytes:
        """Answer with a result as it came; it stays."""
        return answer(request, self._find(handle))

    def drop(self, request: Request, handle: str) -> bytes:
        self._find(handle)
        self._gateway.table.drop_orphan(handle)
        request.setResponseCode(204)
        return b""

    def _find(self, handle: str) -> bytes:
        body = self._gateway.table.find_orphan(handle)
        if body is None:
            raise NotFound
        return body

    def _describe(self, entry: Entry) -> dict[str, Any]:
        assert entry.result is not None
        assert entry.ended is not None
        return {
            "job": entry.handle,
            "id": entry.job_id,
            "age": round(self._clock.seconds() - entry.ended, 3),
            "bytes": len(entry.result.body),
        }


def _answer(request: Request, content: dict[str, Any], status: int = 200) -> bytes:
    return answer(request, json.dumps(content).encode(), status)
