"""What all routes for clients share: a job is begun, its client is held, and gets its response."""

import math
from collections.abc import Sequence
from typing import ClassVar

from attrs import define
from klein import Klein
from twisted.internet.defer import Deferred

from jobproxy.api.documents import describe_state, describe_times, job_path
from jobproxy.api.origins import NO_PAGES, Origins
from jobproxy.api.responses import respond, respond_json, send_report
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.record import JobRecord
from jobproxy.wire.jobs import AnyJob
from jobproxy.wire.preferences import Preferences, parse_preferences
from jobproxy.wire.reports import Report


@define(eq=False)
class ClientHolder:
    """Holds the clients of a gateway."""

    _gateway: Gateway

    def begin(self, job: AnyJob, request: Request, preferences: Preferences) -> Deferred[bytes]:
        """Hold a client until its job ends; cancel the Deferred when the client leaves."""
        if preferences.key is None:
            return self._hold(None, request, job, preferences)
        finding = self._gateway.find_by_key(job, preferences.key)
        return finding.addCallback(self._hold, request, job, preferences)

    def _hold(
        self, known: JobRecord | None, request: Request, job: AnyJob, preferences: Preferences
    ) -> Deferred[bytes]:
        if known is None:
            waiting = self._gateway.submit(job, preferences, request.request_id)
        else:
            if known.result is not None:
                request.setHeader(b"Idempotent-Replayed", b"true")
            waiting = self._gateway.join(known, job, preferences)
        apply_preferences(self._gateway, request, preferences)
        request.forget()
        return waiting.addCallback(self._respond, request, preferences)

    def _respond(self, record: JobRecord, request: Request, preferences: Preferences) -> bytes:
        """Respond with the job's result, or with the ack if that is enough for the client."""
        if record.result is None and preferences.is_async:
            apply_preferences(self._gateway, request, preferences, "respond-async")
        return _send_job(request, record, record.ack)


@define(eq=False)
class JobRoutes:
    """Serves clients that ask for a job by its job id."""

    side: ClassVar = "client"
    _gateways: Sequence[Gateway]
    _origins: Origins = NO_PAGES

    def add_to(self, app: Klein) -> None:
        app.route("/jobs/<job_id>", methods=["GET"])(self.job)
        if self._may_cancel:
            app.route("/jobs/<job_id>", methods=["DELETE"])(self.cancel)
        if self._origins.allowed:
            name = "permit job"
            app.route("/jobs/<job_id>", methods=["OPTIONS"], endpoint=name)(self.permit)

    @property
    def _may_cancel(self) -> bool:
        return any(gateway.starter.follow_ups for gateway in self._gateways)

    def permit(self, request: Request, job_id: str) -> bytes:  # noqa: ARG002 - the route's
        """Say to a browser what a web page may do."""
        methods = ["GET", "HEAD", *(["DELETE"] if self._may_cancel else [])]
        return self._origins.permit(request, methods)

    async def cancel(self, request: Request, job_id: str) -> bytes:
        """Ask the job server to cancel a job; its clients get what it sends then."""
        self._origins.check(request)
        gateway = self._gateways[0]
        record = gateway.table.find(job_id)
        if record is not None:
            # That of the job server which has started it.
            found = [each for each in self._gateways if each.profile == record.profile]
            gateway = (*found, gateway)[0]
        is_agreed = await gateway.cancel(job_id)
        words = "cancelled" if is_agreed else "refused"
        return respond_json(request, {"status": words}, 202 if is_agreed else 502)

    async def job(self, request: Request, job_id: str) -> bytes:
        """Respond with a job's result or state; hold the client if it prefers to wait."""
        self._origins.check(request)
        preferences = parse_preferences(request.headers)
        waiting = self._gateways[0].find(job_id, preferences)
        apply_preferences(self._gateways[0], request, preferences)
        return _send_job(request, await waiting, None)


def apply_preferences(
    gateway: Gateway, request: Request, preferences: Preferences, *applied: str
) -> None:
    """Set the header with the preferences that were applied (RFC 7240, section 3)."""
    if preferences.wait is not None:
        applied = (*applied, f"wait={math.ceil(gateway.hold_times.of(preferences))}")
    if applied:
        request.setHeader(b"Preference-Applied", ", ".join(applied).encode())


def _send_job(request: Request, record: JobRecord, ack: Report | None) -> bytes:
    """Respond with a job's result; without one with the given ack, or else with the state."""
    path = job_path(record.job_id).encode()
    result = record.result
    if result is None:
        request.setHeader(b"Location", path)
        if ack is None:
            return respond(request, describe_state(record), 202)
        request.setResponseCode(202)
        return send_report(request, ack)
    request.setHeader(b"Content-Location", path)
    request.setHeader(b"Server-Timing", describe_times(record))
    if result.status is not None:
        request.setResponseCode(result.status)
    return send_report(request, result)
