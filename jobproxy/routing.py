"""Klein's routing, without what it does anew for every request that never changes."""

from typing import Any
from urllib.parse import unquote_to_bytes

from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import CancelledError, fail
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from jobproxy.http1.request import Request
from jobproxy.problems import Malformed

_log = Logger()


class RoutedResource(KleinResource):
    """Serves a Klein app whose handlers return bytes.

    Klein binds its URL map to each request's host, with IDNA and all, to be able to build URLs; we
    build none, so one binding serves all requests. A handler's Deferred is cancelled when its
    client leaves, as Klein does it.
    """

    def __init__(self, app: Klein) -> None:
        super().__init__(app)
        self._match = app.url_map.bind("").match
        #: What a method and path without variable parts lead to.
        self._known: dict[tuple[bytes, bytes], str] = {}

    def render(self, request: Any) -> Any:
        try:
            result = self._handle(request)
        except Exception:  # whatever a handler raises is what the error handlers are for
            result = fail()
        if isinstance(result, bytes):
            self._finish(result, request)
            return NOT_DONE_YET
        gone = request.notifyFinish()
        gone.addErrback(lambda _: result.cancel())
        result.addErrback(self._explain, request)
        result.addCallbacks(self._finish, self._crash, (request,), errbackArgs=(request,))
        return NOT_DONE_YET

    def _handle(self, request: Request) -> Any:
        key = (request.method, request.path)
        endpoint = self._known.get(key)
        if endpoint is not None:
            return self._app.execute_endpoint(endpoint, request)
        try:
            path = unquote_to_bytes(request.path).decode()
        except UnicodeDecodeError:
            raise Malformed("The path is not UTF-8.") from None
        endpoint, parts = self._match(path, request.method.decode("ascii"))
        if not parts:
            self._known[key] = endpoint
        return self._app.execute_endpoint(endpoint, request, **parts)

    def _explain(self, failure: Failure, request: Request) -> Any:
        """Have the first error handler that fits say what went wrong."""
        if request.is_gone:
            return failure
        for kinds, handler in self._app._error_handlers:
            if failure.check(*kinds):
                return self._app.execute_error_handler(handler, request, failure)
        return failure

    def _finish(self, body: bytes, request: Request) -> None:
        if not request.is_gone:
            request.write(body)
            request.finish()

    def _crash(self, failure: Failure, request: Request) -> None:
        if not (request.is_gone and failure.check(CancelledError)):
            _log.failure("a handler failed", failure)
