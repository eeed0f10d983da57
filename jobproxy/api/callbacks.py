"""The route for the job server: callbacks."""

import json
from typing import ClassVar

from attrs import define
from klein import Klein
from twisted.internet.defer import Deferred

from jobproxy.api.responses import respond
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.delivery import Delivery
from jobproxy.wire.reports import read_report

_RESPONSES = {delivery: json.dumps({"status": delivery.word}).encode() for delivery in Delivery}


@define(eq=False)
class CallbackRoutes:
    """Serves callbacks.

    :param path: of the callback URL, without a slash at its end.
    :param has_tokens: whether each job's URL ends with its token.
    """

    side: ClassVar = "callback"
    _gateway: Gateway
    _path: str
    _has_tokens: bool = True

    def add_to(self, app: Klein) -> None:
        path = f"{self._path}/<token>" if self._has_tokens else self._path
        app.route(path, methods=["POST", "PUT"])(self.receive)

    def receive(self, request: Request, token: str | None = None) -> bytes | Deferred[bytes]:
        """Receive a callback. Its body is not read before the token is verified."""
        job_id = None if token is None else self._gateway.verify(token)
        coding = request.find_header(b"content-encoding") or b""
        report = read_report(request.body, request.find_header(b"content-type"), coding)
        return respond_to_callback(request, self._gateway.deliver(job_id, report))


def respond_to_callback(
    request: Request, delivery: Delivery | Deferred[Delivery]
) -> bytes | Deferred[bytes]:
    """Respond to a callback with what became of it."""
    if isinstance(delivery, Deferred):
        return delivery.addCallback(lambda relayed: respond(request, _RESPONSES[relayed]))
    return respond(request, _RESPONSES[delivery])
