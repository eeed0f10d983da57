"""The routes for clients that speak the work sample's way: POST a job and be held."""

import re
from collections.abc import Sequence
from typing import ClassVar

from attrs import define, evolve
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from jobproxy.api.holding import ClientHolder
from jobproxy.api.origins import NO_PAGES, Origins
from jobproxy.http1.request import Request
from jobproxy.util.steps import run_in_steps
from jobproxy.wire.jobs import Job, parse_job, parse_large_job
from jobproxy.wire.large_json import LARGE
from jobproxy.wire.preferences import Preferences, parse_preferences
from jobproxy.wire.problems import Kind, Problem, ProblemError

#: Where jobs are accepted: jobproxy's own path, and those that clients of the job server use.
PROXY_PATHS = ("/proxy", "/start", "/")

_JSON_TYPE = re.compile(rb"application/(?:[\w.+-]+\+)?json\s*(?:;.*)?", re.IGNORECASE)


@define(eq=False)
class ClientRoutes:
    """Serves clients.

    :param allows_callbacks: whether a client may set a callback URL of its own.
    :param origins: the web pages that may start jobs.
    :param forwarded: names of headers, in lower case, that go on with the start request.
    """

    side: ClassVar = "client"
    _holder: ClientHolder
    _clock: IReactorTime
    _allows_callbacks: bool = False
    _origins: Origins = NO_PAGES
    _forwarded: Sequence[bytes] = ()

    def add_to(self, app: Klein) -> None:
        for path in PROXY_PATHS:
            app.route(path, methods=["POST"])(self.proxy)
        if self._origins.allowed:
            for path in PROXY_PATHS:
                app.route(path, methods=["OPTIONS"])(self.permit)

    def permit(self, request: Request) -> bytes:
        """Say to a browser what a web page may do."""
        return self._origins.permit(request, ["POST"], self._forwarded)

    def proxy(self, request: Request) -> Deferred[bytes]:
        """Hold a client until its job ends; cancel the Deferred when the client leaves."""
        self._origins.check(request)
        _check_type(request)
        preferences = parse_preferences(request.headers)
        if len(request.body) > LARGE:
            work = parse_large_job(
                request.body,
                allows_callbacks=self._allows_callbacks,
                is_async=preferences.is_async,
            )
            parsing = run_in_steps(self._clock, work)
            return parsing.addCallback(self._begin, request, preferences)
        job = parse_job(
            request.body, allows_callbacks=self._allows_callbacks, is_async=preferences.is_async
        )
        return self._begin(job, request, preferences)

    def _begin(self, job: Job, request: Request, preferences: Preferences) -> Deferred[bytes]:
        if self._forwarded:
            found = [(name, request.find_header(name)) for name in self._forwarded]
            kept = tuple((name, value) for name, value in found if value is not None)
            size = job.size + sum(len(name) + len(value) for name, value in kept)
            job = evolve(job, headers=kept, size=size)
        return self._holder.begin(job, request, preferences)


def _check_type(request: Request) -> None:
    coding = request.find_header(b"content-encoding")
    if coding and coding.lower() != b"identity":
        raise _unsupported("Send the body without a Content-Encoding.")
    content_type = request.find_header(b"content-type")
    if content_type is None or content_type == b"application/json":
        return
    if not _JSON_TYPE.fullmatch(content_type):
        raise _unsupported("Send the job as JSON, with Content-Type: application/json.")


def _unsupported(detail: str) -> ProblemError:
    return ProblemError(Problem(Kind.UNSUPPORTED_MEDIA_TYPE, detail))
