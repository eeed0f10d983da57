"""Ports that lose no connection when they close."""

import select
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime, IReadDescriptor, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

_log = Logger()

#: More than enough readings of a port for the longest queue of connections: the first accepts one,
#: and each further one up to 20 more than the one before it.
MAX_READINGS = 100


class ListeningService(Service):
    """Listens while it runs.

    When it stops, the connections in the queue of its socket are accepted first: Linux resets those
    that are there when the socket is closed, although their clients may have sent a request.
    Twisted's own service does not do that.

    :param clock: the reactor of the endpoint.
    :param is_inherited: whether the socket stays open for the next process, for which its queue
        then waits.
    """

    def __init__(
        self,
        endpoint: IStreamServerEndpoint,
        factory: Factory,
        clock: IReactorTime,
        *,
        is_inherited: bool = False,
    ) -> None:
        self._is_inherited = is_inherited
        self._endpoint = endpoint
        self._factory = factory
        self._clock = clock
        self._listening: Deferred[Any] | None = None

    def privilegedStartService(self) -> None:
        """Listen.

        :raises Exception: if that fails at once.
        """
        super().privilegedStartService()
        listening = self._endpoint.listen(self._factory)
        if listening.called:
            failures: list[Failure] = []
            listening.addErrback(failures.append)
            for failure in failures:
                failure.raiseException()
        else:
            # Those of Twisted know at once; one that a plugin adds may not.
            listening.addErrback(partial(_log.failure, "cannot listen"))
        self._listening = listening

    def startService(self) -> None:
        super().startService()
        if self._listening is None:
            self.privilegedStartService()

    def stopService(self) -> Any:
        super().stopService()
        listening, self._listening = self._listening, None
        if listening is None:
            return None
        listening.cancel()
        return listening.addCallback(self._close)

    def _close(self, port: Any) -> Any:
        if port is None:
            return None
        if IReadDescriptor.providedBy(port) and not self._is_inherited:
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
