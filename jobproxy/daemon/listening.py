"""Ports that lose no connection when they close."""

import select
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IReactorTime, IReadDescriptor
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

#: More than enough readings of a port for the longest queue of connections: the first accepts one,
#: and each further one up to 20 more than the one before it.
MAX_READINGS = 100


class ListeningService(Service):
    """Listens while it runs.

    When it stops, the connections in the queue of its socket are accepted first: Linux resets those
    that are there when the socket is closed, although their clients may have sent a request.
    Twisted's own service does not do that.

    :param description: of the endpoint, for strports.
    :param reactor: one that can listen and tells the time.
    """

    def __init__(self, description: str, factory: Factory, reactor: Any) -> None:
        self._endpoint = serverFromString(reactor, description)
        self._factory = factory
        self._clock: IReactorTime = reactor
        self._listening: Deferred[Any] | None = None

    def privilegedStartService(self) -> None:
        """Listen.

        :raises Exception: if that fails at once.
        """
        super().privilegedStartService()
        failures: list[Failure] = []
        self._listening = self._endpoint.listen(self._factory).addErrback(failures.append)
        for failure in failures:
            self._listening = None
            failure.raiseException()

    def startService(self) -> None:
        super().startService()
        if self._listening is None:
            self.privilegedStartService()

    def stopService(self) -> Any:
        super().stopService()
        listening, self._listening = self._listening, None
        return None if listening is None else listening.addCallback(self._close)

    def _close(self, port: Any) -> Any:
        if IReadDescriptor.providedBy(port):
            # A port closes in the next turn of the loop. This comes directly before it, so that
            # hardly any time is left for further connections.
            self._clock.callLater(0, accept_all, port)
        return port.stopListening()


def accept_all(port: Any) -> None:
    """Accept all connections in the queue of a port's socket."""
    poll = select.poll()
    poll.register(port.fileno(), select.POLLIN)
    for _ in range(MAX_READINGS):
        if not poll.poll(0):
            return
        port.doRead()
