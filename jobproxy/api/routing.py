"""Klein's routing, with a cache of what is the same for every request."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import unquote_to_bytes

from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import CancelledError, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET
from werkzeug.exceptions import HTTPException

from jobproxy.http1.request import Request, find_path
from jobproxy.wire.problems import Kind, Problem, ProblemError

_log = Logger()

#: A segment of a path in which nothing is escaped.
_PLAIN = re.compile(rb"[A-Za-z0-9._~-]+")


class RoutedResource(KleinResource):
    """Serves a Klein app. Its handlers return bytes or a Deferred, its error handlers return bytes.

    Klein binds its URL map to the host of each request, which is slow, and needed only to build
    URLs. No URLs are built here, so there is one binding. As in Klein, a handler's Deferred is
    cancelled when its client leaves.

    :param is_token: whether the variable ``token`` of a route is good.
    :param sides: who sends the requests of an endpoint, if not who sends those of the server.
    """

    def __init__(
        self, app: Klein, is_token: Callable[[str], bool], sides: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(app)
        self._sides = defaultdict(str, sides or {})
        self._is_token = is_token
        self._match = app.url_map.bind("").match
        #: All routes that are served.
        self.rules = rules = list(app.url_map.iter_rules())
        self._fixed_paths = {rule.rule.encode() for rule in rules if not rule.arguments}
        self._fixed_parents = {
            rule.rule.rpartition("/<")[0].encode() for rule in rules if rule.rule.count("<") == 1
        }
        #: The endpoint of a method and a path without variables; and of a method and a path without
        #: its last segment, with the name of the one variable, which is that segment.
        self._known: dict[tuple[bytes, bytes], str] = {}
        self._known_parents: dict[tuple[bytes, bytes], tuple[str, str]] = {}

    def find_side(self, method: bytes, target: bytes) -> str | None:
        """Return who sends a request; :data:`None`: it has no route, or no good token."""
        try:
            text = unquote_to_bytes(find_path(target)).decode()
            endpoint, parts = self._match(normalize(text), method.decode("ascii"))
        except (UnicodeDecodeError, HTTPException):
            return None
        is_good = "token" not in parts or self._is_token(parts["token"])
        return self._sides[endpoint] if is_good else None

    def render(self, request: Any) -> Any:
        try:
            result = self._handle(request)
        except Exception:  # the error handlers respond to whatever a handler raises
            result = fail()
        if isinstance(result, bytes):
            self._finish(result, request)
        else:
            request.when_gone(result.cancel)
            result.addCallbacks(self._finish, self._refuse, (request,), errbackArgs=(request,))
        return NOT_DONE_YET

    def _handle(self, request: Any) -> Any:
        method, path = request.method, request.path
        if (method, path) in self._known:
            endpoint = self._known[method, path]
            request.side = self._sides[endpoint]
            return self._app.execute_endpoint(endpoint, request)
        parent, _, last = path.rpartition(b"/")
        if (
            (method, parent) in self._known_parents
            and path not in self._fixed_paths
            and _PLAIN.fullmatch(last)
        ):
            endpoint, name = self._known_parents[method, parent]
            request.side = self._sides[endpoint]
            return self._app.execute_endpoint(endpoint, request, **{name: last.decode()})
        try:
            text = unquote_to_bytes(path).decode()
        except UnicodeDecodeError:
            raise ProblemError(Problem(Kind.MALFORMED_REQUEST, "The path is not UTF-8.")) from None
        endpoint, parts = self._match(normalize(text), method.decode("ascii"))
        request.side = self._sides[endpoint]
        if path in self._fixed_paths:
            self._known[method, path] = endpoint
        elif parent in self._fixed_parents and len(parts) == 1:
            self._known_parents[method, parent] = (endpoint, next(iter(parts)))
        return self._app.execute_endpoint(endpoint, request, **parts)

    # Neither _finish() nor _refuse() may raise: no errback follows them, so that the client would
    # wait forever. A last errback would cost four calls a job.

    def _finish(self, body: bytes, request: Request) -> None:
        if request.is_gone:
            return
        try:
            request.write(body)
            request.finish()
        except Exception:
            self._abort(Failure(), request)

    def _refuse(self, failure: Failure, request: Any) -> None:
        """Respond with what the first matching error handler returns."""
        if request.is_gone:
            if not failure.check(CancelledError):
                _log.failure("a handler failed after its client had left", failure)
            return
        for kinds, handler in self._app._error_handlers:
            if failure.check(*kinds):
                try:
                    body = self._app.execute_error_handler(handler, request, failure)
                except Exception:
                    self._abort(Failure(), request)
                else:
                    self._finish(cast(bytes, body), request)
                return
        self._abort(failure, request)

    def _abort(self, failure: Failure, request: Request) -> None:
        """Close the connection of a request that cannot get a response."""
        _log.failure("a request could not get its response", failure)
        request.channel.transport.abortConnection()


def normalize(path: str) -> str:
    """Return a path without empty segments: people, and programs, put slashes together wrongly."""
    return "/" + "/".join(segment for segment in path.split("/") if segment)
