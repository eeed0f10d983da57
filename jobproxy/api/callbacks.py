"""The job server's route: callbacks."""

import json

from attrs import define
from klein import Klein
from twisted.internet.defer import Deferred

from jobproxy.api.responses import respond
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.delivery import Delivery

_RECEIPTS = {delivery: json.dumps({"status": delivery.value}).encode() for delivery in Delivery}


@define(eq=False)
class CallbackRoutes:
    """Serves callbacks.

    :param path: of all callbacks, without a slash at its end.
    :param has_tokens: whether a token follows, which says which job it is.
    """

    _gateway: Gateway
    _path: str
    _has_tokens: bool = True

    def add_to(self, app: Klein) -> None:
        path = f"{self._path}/<token>" if self._has_tokens else self._path
        app.route(path, methods=["POST"])(self.receive)

    def receive(self, request: Request, token: str | None = None) -> bytes | Deferred[bytes]:
        """Receive a callback; nothing of it is looked at before its token."""
        delivery = self._gateway.deliver(token, request.body)
        if isinstance(delivery, Deferred):
            return delivery.addCallback(lambda done: respond(request, _RECEIPTS[done]))
        return respond(request, _RECEIPTS[delivery])
