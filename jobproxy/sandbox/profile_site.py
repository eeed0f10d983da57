"""Serves a simulated API over HTTP, at whatever paths its profile has."""

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from jobproxy.profiles.messages import Message
from jobproxy.sandbox.network import connection_of
from jobproxy.sandbox.profile_server import Call, ProfileServer, Reply
from jobproxy.sandbox.starts import read_body

_log = Logger()


class ProfileResource(Resource):
    """The resource at all paths.

    :param server: decides what is responded.
    """

    isLeaf = True

    def __init__(self, server: ProfileServer) -> None:
        super().__init__()
        self._server = server

    def render(self, request: Request) -> int:
        """Respond when the server has a reply."""
        serving = Deferred.fromCoroutine(self._server.serve(read_call(request)))
        serving.addErrback(self._crash)
        serving.addCallback(self._respond, request, request.notifyFinish())
        return NOT_DONE_YET

    def _crash(self, failure: Failure) -> Reply:
        _log.failure("the simulator crashed", failure)
        return Reply(500)

    def _respond(self, reply: Reply, request: Request, ended: Deferred[None]) -> None:
        # Its error says that the connection was lost, by which the reply is, too.
        ended.addErrback(lambda _: None)
        if ended.called:
            return
        request.setResponseCode(reply.status)
        for name, value in reply.headers.items():
            request.setHeader(name.encode(), value.encode("latin-1"))
        request.setHeader(b"content-length", b"%d" % len(reply.body))
        request.write(reply.body)
        request.finish()


def read_call(request: Request) -> Call:
    """Return a request as the simulator reads it."""
    headers = {
        name.lower(): b", ".join(values)
        for name, values in request.requestHeaders.getAllRawHeaders()
    }
    target = request.uri.decode("latin-1")
    message = Message(
        read_body(request),
        headers,
        target.partition("?")[2],
        {},
        request.method.decode("latin-1"),
    )
    host = headers.get(b"host", b"localhost").decode("latin-1")
    scheme = "https" if request.isSecure() else "http"
    return Call(message, target, f"{scheme}://{host}", connection_of(request))
