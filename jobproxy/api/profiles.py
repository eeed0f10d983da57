"""The routes of a profile: its clients, and its job server's callbacks."""

import re
from collections.abc import Callable
from typing import ClassVar

from attrs import define
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.api.callbacks import respond_to_callback
from jobproxy.api.holding import ClientHolder
from jobproxy.api.origins import NO_PAGES, Origins
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.delivery import Delivery
from jobproxy.profiles.job import make_job
from jobproxy.profiles.messages import Message, Scope, read_headers
from jobproxy.profiles.profile import Profile
from jobproxy.profiles.readings import find_named_id, read_message
from jobproxy.profiles.requests import is_body_read
from jobproxy.upstream.follow_ups import messages_of
from jobproxy.util.steps import run_in_steps
from jobproxy.wire.preferences import parse_preferences
from jobproxy.wire.problems import Kind, Problem, ProblemError

_log = Logger()

#: What another server might read as a slash.
_ENCODED = re.compile(rb"%2f|%5c", re.IGNORECASE)


@define(eq=False)
class ProfileRoutes:
    """Serves the clients of a profile.

    :param max_body: bytes of a request's body.
    """

    side: ClassVar = "client"
    _profile: Profile
    _holder: ClientHolder
    _clock: IReactorTime
    _max_body: int
    _origins: Origins = NO_PAGES

    def add_to(self, app: Klein) -> None:
        name = f"start {self._profile.name}"
        rule, methods = self._profile.path.rule, list(self._profile.methods)
        app.route(rule, methods=methods, endpoint=name)(self.start)
        if self._origins.allowed:
            app.route(rule, methods=["OPTIONS"], endpoint=f"permit {name}")(self.permit)

    def permit(self, request: Request, **_: str) -> bytes:
        """Say to a browser what a web page may do."""
        headers = self._profile.headers.request
        return self._origins.permit(request, self._profile.methods, headers)

    def start(self, request: Request, **path: str) -> Deferred[bytes]:
        """Hold a client until its job ends; cancel the Deferred when the client leaves."""
        self._origins.check(request)
        if len(request.body) > self._max_body:
            detail = f"The body has more than {self._max_body} bytes."
            raise ProblemError(Problem(Kind.BODY_TOO_LARGE, detail))
        if path and _ENCODED.search(request.path):
            raise ProblemError(
                Problem(Kind.INVALID_REQUEST, "The path must not have an encoded slash in it.")
            )
        message = read_request(request, self._profile.headers.request, path)
        if message.is_large and is_body_read(self._profile) and not message.coding:
            reading = run_in_steps(self._clock, message.read_in_steps(is_strict=True))
            return reading.addCallback(lambda _: self._begin(message, request))
        return self._begin(message, request)

    def _begin(self, message: Message, request: Request) -> Deferred[bytes]:
        job = make_job(self._profile, message)
        return self._holder.begin(job, request, parse_preferences(request.headers))


@define(eq=False)
class ProfileCallbackRoutes:
    """Serves the callbacks of a profile.

    :param path: of the callback URL, without a slash at its end.
    :param now: returns Unix time in seconds.
    """

    side: ClassVar = "callback"
    _profile: Profile
    _gateway: Gateway
    _path: str
    _clock: IReactorTime
    _now: Callable[[], float]

    def add_to(self, app: Klein) -> None:
        path = f"{self._path}/{self._profile.name}"
        rule = path if self._profile.correlates_by_id else f"{path}/<token>"
        methods = list(self._profile.callback_methods)
        endpoint = f"callback {self._profile.name}"
        app.route(rule, methods=methods, endpoint=endpoint)(self.receive)

    def receive(self, request: Request, token: str | None = None) -> bytes | Deferred[bytes]:
        """Receive a callback. Its body is not read before the token is verified."""
        job_id = None if token is None else self._gateway.verify(token)
        profile = self._profile
        message = read_request(request, profile.headers.message, {})
        if profile.verifier is not None and not profile.verifier.verify(message, self._now()):
            self._gateway.callbacks["unsigned"] += 1
            raise ProblemError(
                Problem(Kind.UNSIGNED, "The signature of the callback is missing or wrong.")
            )
        if message.is_large:
            reading = run_in_steps(self._clock, message.read_in_steps(is_strict=False))
            return reading.addCallback(lambda _: self._deliver(request, job_id, message))
        return self._deliver(request, job_id, message)

    def _deliver(
        self, request: Request, job_id: str | None, message: Message
    ) -> bytes | Deferred[bytes]:
        profile = self._profile
        record = self._gateway.find_named(job_id, find_named_id(profile.callback, message))
        # The URL of the result may need what the ack has said.
        known = Scope() if record is None else messages_of(record) or Scope()
        reading = read_message(profile, profile.callback, known.with_message(message))
        if not reading.is_known:
            _log.warn(
                "a callback of profile {profile} has the state {word}, which the profile does not "
                "know; it changes nothing",
                profile=profile.name,
                word=reading.word,
            )
        if job_id is None and reading.report.upstream_id is None:
            # One URL for all can get events about other things than jobs.
            return respond_to_callback(request, Delivery.LATE)
        is_thin = profile.callback.url is not None and not reading.report.is_progress
        if is_thin:
            delivery = self._gateway.thin.receive(job_id, record, reading, message)
            return respond_to_callback(request, delivery)
        return respond_to_callback(request, self._gateway.deliver(job_id, reading.report))


def read_request(request: Request, names: frozenset[bytes], path: dict[str, str]) -> Message:
    """Return a request as a profile's expressions read it.

    :param names: of the headers to keep, in lower case.
    :param path: the variables in its path.
    """
    query = request.uri.partition(b"?")[2].decode("latin-1")
    headers = read_headers(request, names)
    return Message(request.body, headers, query, path, request.method.decode("latin-1"))
