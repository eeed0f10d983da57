"""The routes for clients: POST a job and be held, or ask for it later."""

import re

from attrs import define
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from jobproxy.api.documents import describe_state, describe_times, job_path
from jobproxy.api.origins import NO_PAGES, Origins
from jobproxy.api.responses import respond, send_report
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.record import JobRecord
from jobproxy.util.steps import run_in_steps
from jobproxy.wire.jobs import Job, parse_job, parse_large_job
from jobproxy.wire.large_json import LARGE
from jobproxy.wire.preferences import Preferences, parse_preferences
from jobproxy.wire.problems import Kind, Problem, ProblemError
from jobproxy.wire.reports import Report

#: Where jobs are accepted: jobproxy's own path, and those that clients of the job server use.
PROXY_PATHS = ("/proxy", "/start", "/")

_JSON_TYPE = re.compile(rb"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


@define(eq=False)
class ClientRoutes:
    """Serves clients.

    :param allows_callbacks: whether a client may set a callback URL of its own.
    :param origins: the web pages that may start jobs.
    """

    _gateway: Gateway
    _clock: IReactorTime
    _allows_callbacks: bool = False
    _origins: Origins = NO_PAGES

    def add_to(self, app: Klein) -> None:
        for path in PROXY_PATHS:
            app.route(path, methods=["POST"])(self.proxy)
        app.route("/jobs/<job_id>", methods=["GET"])(self.job)
        if self._origins.allowed:
            for path in (*PROXY_PATHS, "/jobs/<_>"):
                app.route(path, methods=["OPTIONS"])(self.permit)

    def permit(self, request: Request, _: str = "") -> bytes:
        """Say to a browser what a web page may do."""
        return self._origins.permit(request)

    def proxy(self, request: Request) -> Deferred[bytes]:
        """Hold a client until its job ends; cancel the Deferred when the client leaves."""
        self._origins.check(request)
        _check_type(request)
        preferences = parse_preferences(request.headers)
        if len(request.body) > LARGE:
            work = parse_large_job(request.body, allows_callbacks=self._allows_callbacks)
            parsing = run_in_steps(self._clock, work)
            return parsing.addCallback(self._begin, request, preferences)
        job = parse_job(request.body, allows_callbacks=self._allows_callbacks)
        return self._begin(job, request, preferences)

    def _begin(self, job: Job, request: Request, preferences: Preferences) -> Deferred[bytes]:
        if preferences.key is None:
            return self._hold(None, request, job, preferences)
        finding = self._gateway.find_by_key(job, preferences.key)
        return finding.addCallback(self._hold, request, job, preferences)

    def _hold(
        self, known: JobRecord | None, request: Request, job: Job, preferences: Preferences
    ) -> Deferred[bytes]:
        if known is None:
            waiting = self._gateway.submit(job, preferences, request.request_id)
        else:
            if known.result is not None:
                request.setHeader(b"Idempotent-Replayed", b"true")
            waiting = self._gateway.join(known, job, preferences)
        self._apply(request, preferences)
        request.forget()
        return waiting.addCallback(self._respond, request, preferences)

    def _respond(self, record: JobRecord, request: Request, preferences: Preferences) -> bytes:
        """Respond with the job's result, or with the ack if that is enough for the client."""
        if record.result is None and preferences.is_async:
            self._apply(request, preferences, "respond-async")
        return _send_job(request, record, record.ack)

    async def job(self, request: Request, job_id: str) -> bytes:
        """Respond with a job's result or state; hold the client if it prefers to wait."""
        self._origins.check(request)
        preferences = parse_preferences(request.headers)
        waiting = self._gateway.find(job_id, preferences)
        self._apply(request, preferences)
        return _send_job(request, await waiting, None)

    def _apply(self, request: Request, preferences: Preferences, *applied: str) -> None:
        """Set the header with the preferences that were applied (RFC 7240, section 3)."""
        if preferences.wait is not None:
            applied = (*applied, f"wait={int(self._gateway.hold_times.of(preferences))}")
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
    return send_report(request, result)


def _check_type(request: Request) -> None:
    coding = request.find_header(b"content-encoding")
    if coding and coding.lower() != b"identity":
        request.setHeader(b"Accept-Encoding", b"identity")
        raise _unsupported("Send the body without a Content-Encoding.")
    content_type = request.find_header(b"content-type")
    if content_type is None or content_type == b"application/json":
        return
    if not _JSON_TYPE.fullmatch(content_type):
        raise _unsupported("Send the job as JSON, with Content-Type: application/json.")


def _unsupported(detail: str) -> ProblemError:
    return ProblemError(Problem(Kind.UNSUPPORTED_MEDIA_TYPE, detail))
