"""The HTTP side: Klein routes, requests parsed in, results and problems written out."""

import json
import re

from attrs import define
from klein import Klein
from twisted.internet.defer import Deferred

from jobproxy.api.responses import respond
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.record import Delivery, JobRecord
from jobproxy.wire.jobs import Job, Report, parse_job
from jobproxy.wire.preferences import Preferences, parse_preferences
from jobproxy.wire.problems import UnsupportedMediaType, job_path

#: Where jobs are taken: our own path, and those by which clients know the job server itself.
PROXY_PATHS = ("/proxy", "/start", "/")

_RECEIPTS = {delivery: json.dumps({"status": delivery.value}).encode() for delivery in Delivery}
_JSON_TYPE = re.compile(rb"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


@define(eq=False)
class ClientRoutes:
    """Serves clients.

    :param allows_callbacks: whether a client may want to be called back itself.
    """

    _gateway: Gateway
    _allows_callbacks: bool = False

    def add_to(self, app: Klein) -> None:
        for path in PROXY_PATHS:
            app.route(path, methods=["POST"])(self.proxy)
        app.route("/jobs/<job_id>", methods=["GET"])(self.job)

    def proxy(self, request: Request) -> Deferred[bytes]:
        """Hold a client until its job is done; the Deferred is cancelled when the client leaves."""
        _check_type(request)
        preferences = parse_preferences(request.headers)
        job = parse_job(request.body, allows_callbacks=self._allows_callbacks)
        if preferences.key is None:
            return self._hold(None, request, job, preferences)
        recalling = self._gateway.recall(job, preferences.key)
        return recalling.addCallback(self._hold, request, job, preferences)

    def _hold(
        self, known: JobRecord | None, request: Request, job: Job, preferences: Preferences
    ) -> Deferred[bytes]:
        if known is None:
            waiting = self._gateway.submit(job, preferences, request.request_id)
        else:
            if known.result is not None:
                request.setHeader(b"Idempotent-Replayed", b"true")
            waiting = self._gateway.join(known, job, preferences)
        self._tell_wait(request, preferences)
        request.forget()
        return waiting.addCallback(self._tell_job, request, preferences)

    def _tell_job(self, record: JobRecord, request: Request, preferences: Preferences) -> bytes:
        """Answer with a job's result, or with the ack if that is all that the client wants."""
        if record.result is None and preferences.is_async:
            self._tell_wait(request, preferences, "respond-async")
        return _tell(request, record, record.ack)

    async def job(self, request: Request, job_id: str) -> bytes:
        """Tell of a job, or hold the client until there is more to tell."""
        preferences = parse_preferences(request.headers)
        waiting = self._gateway.find(job_id, preferences)
        self._tell_wait(request, preferences)
        record = await waiting
        return _tell(request, record)

    def _tell_wait(self, request: Request, preferences: Preferences, *applied: str) -> None:
        """Tell the client which of its preferences count (RFC 7240, section 3)."""
        if preferences.wait is not None:
            applied = (*applied, f"wait={int(self._gateway.hold_time(preferences))}")
        if applied:
            request.setHeader("Preference-Applied", ", ".join(applied))


@define(eq=False)
class CallbackRoutes:
    """Serves callbacks of jobs whose token is in the path.

    :param path: the path below which they arrive: empty, or ``/…`` without a slash at its end.
    """

    _gateway: Gateway
    _path: str

    def add_to(self, app: Klein) -> None:
        app.route(f"{self._path}/<token>", methods=["POST"])(self.take)

    def take(self, request: Request, token: str) -> bytes | Deferred[bytes]:
        """Take a callback; nothing of it is looked at before its token."""
        job_id = self._gateway.recognize(token)
        delivery = self._gateway.deliver(job_id, request.body)
        if isinstance(delivery, Delivery):
            return respond(request, _RECEIPTS[delivery])
        return delivery.addCallback(lambda done: respond(request, _RECEIPTS[done]))


@define(eq=False)
class FixedCallbackRoutes:
    """Serves callbacks that all come to the same path.

    :param path: not empty.
    """

    _gateway: Gateway
    _path: str

    def add_to(self, app: Klein) -> None:
        app.route(self._path, methods=["POST"])(self.take)

    def take(self, request: Request) -> bytes:
        """Take a callback, and find its job by the id in it."""
        return respond(request, _RECEIPTS[self._gateway.deliver_by_id(request.body)])


def _tell(request: Request, record: JobRecord, ack: Report | None = None) -> bytes:
    """Respond with a job's result; as long as it has none with its ack, or with its state."""
    path = job_path(record.job_id).encode()
    result = record.result
    if result is None:
        request.setHeader(b"Location", path)
        return respond(request, _describe(record) if ack is None else ack.body, 202)
    request.setHeader(b"Content-Location", path)
    request.setHeader(b"Server-Timing", _time(record))
    return respond(request, result.body)


def _describe(record: JobRecord) -> bytes:
    """Return how far a job has come, as JSON."""
    known = {"state": record.state.value}
    if record.upstream_id is not None:
        known["id"] = record.upstream_id
    return json.dumps(known).encode()


def _time(record: JobRecord) -> bytes:
    """Return how long each part of a job's way took, in milliseconds (Server-Timing)."""
    parts = ""
    begin = record.created
    for name, end in (("queue", record.sent), ("start", record.acked), ("job", record.ended)):
        if end is not None:
            parts += f", {name};dur={(end - begin) * 1000:.3f}"
            begin = end
    return parts[2:].encode()


def _check_type(request: Request) -> None:
    if request.find_header(b"content-encoding"):
        raise UnsupportedMediaType("Send the body as it is, without a Content-Encoding.")
    content_type = request.find_header(b"content-type")
    if content_type is None or content_type == b"application/json":
        return
    if not _JSON_TYPE.fullmatch(content_type):
        raise UnsupportedMediaType("Send the job as JSON, with Content-Type: application/json.")
