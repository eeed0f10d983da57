"""The drain: refuse new jobs, wait for the held clients, and send every byte to them.

What is in front of the proxy gets time to send its jobs elsewhere: it is not ready at once, but
accepts jobs until the delay is over. Then its ports for clients close, and only then it refuses
jobs. So neither a load balancer that asks whether it is ready nor one that has to find its ports
closed gets a refusal.
"""

from collections.abc import Sequence

from attrs import define, field
from twisted.application.service import IService
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from jobproxy.daemon.systemd import Notifier
from jobproxy.gateway import Gateway
from jobproxy.http1.server import ServerFactory
from jobproxy.util.deadline import TURNS, Deadline

_log = Logger()

#: Seconds for the requests of clients that connected just before.
LAST_REQUESTS_TIME = 0.1
#: Seconds for the bytes of the last responses to be sent, on all connections.
FLUSH_TIME = 5.0
#: Seconds of these for the rest of requests that have begun to arrive.
REST_TIME = 1.0
#: The same, once a second signal has come.
HURRIED_FLUSH_TIME = 0.5


@define(eq=False)
class Drain:
    """Ends the proxy's work before its services are stopped.

    :param timeout: seconds to wait for the held clients.
    :param delay: seconds in which jobs are accepted although the proxy is not ready.
    :param callbacks: the factory of the ports for callbacks only, if there are any. Its idle
        connections stay open while clients are held, because a job server may not repeat a callback
        that was lost with the connection.
    :param ports: the ports for clients that get no callbacks, so that they can close first. If the
        socket of one stays open for the next process, new clients wait there for it.
    """

    _clock: IReactorTime
    _gateways: Sequence[Gateway]
    _factories: Sequence[ServerFactory]
    _timeout: float
    _notifier: Notifier
    _callbacks: ServerFactory | None = None
    _ports: Sequence[IService] = ()
    _delay: float = field(default=0.0, kw_only=True)
    _waiting: Deferred[None] | None = field(default=None, init=False)
    _is_hurried: bool = field(default=False, init=False)

    async def finish_jobs(self) -> None:
        """Refuse new jobs, and wait until no client is held, for the timeout at most.

        Results that are being fetched, and polls, are waited for, too: somebody can come back.
        """
        table = self._gateways[0].table
        clients = table.clients
        for gateway in self._gateways:
            gateway.leave()
        if self._delay:
            await self._linger()
        _log.info("draining: {held} clients are held", held=clients.held)
        self._notifier.notify(STOPPING="1", STATUS=f"draining, {clients.held} clients held")
        if self._ports:
            for port in self._ports:
                await maybeDeferred(port.disownServiceParent)
            await deferLater(self._clock, LAST_REQUESTS_TIME)
        for gateway in self._gateways:
            gateway.drain()
        await self._close_idle(is_last=False)
        end = self._clock.seconds() + self._timeout
        if clients.held and not self._is_hurried:
            await self._wait(clients.when_idle(), self._timeout)
        for gateway in self._gateways:
            left = end - self._clock.seconds()
            if left > 0 and not self._is_hurried:
                await self._wait(gateway.thin.when_idle(), left)
            gateway.thin.stop()
        _log.info(
            "drained: {held} clients are still held, {jobs} jobs have not ended",
            held=clients.held,
            jobs=len(table),
        )

    async def flush(self) -> None:
        """Wait until the last responses are sent; to be called when no client is held.

        Who has begun a request, and does not end it, does not hold up the end of the process.
        """
        await self._close_idle(is_last=True)
        seconds = HURRIED_FLUSH_TIME if self._is_hurried else FLUSH_TIME
        end = self._clock.seconds() + seconds
        await self._wait_until_sent(min(end, self._clock.seconds() + REST_TIME))
        for factory in self._factories:
            factory.drop_unread()
        await self._wait_until_sent(end)

    async def _wait_until_sent(self, end: float) -> None:
        """Wait until all connections are closed; until a time on the clock at most."""
        for factory in self._factories:
            left = end - self._clock.seconds()
            if left > 0:
                await self._wait(factory.when_empty(), left)

    def hurry(self) -> None:
        """Stop waiting: the clients that are still held get an error."""
        _log.info("a second signal came: the clients that are still held get an error")
        self._is_hurried = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def _linger(self) -> None:
        """Accept jobs until the delay is over; each connection ends with its next response."""
        _log.info("not ready any more; the drain begins in {delay:g} s", delay=self._delay)
        held = self._gateways[0].table.clients.held
        status = f"not ready, drains in {self._delay:g} s, {held} clients held"
        self._notifier.notify(STOPPING="1", STATUS=status)
        for factory in self._factories:
            if factory is not self._callbacks:
                factory.leave()
        await self._wait(Deferred(), self._delay)

    async def _close_idle(self, *, is_last: bool) -> None:
        # Requests that have arrived by now still get a response.
        for _ in range(TURNS):
            await deferLater(self._clock, 0)
        for factory in self._factories:
            if is_last or factory is not self._callbacks:
                factory.drain(spare_silent=not is_last)

    async def _wait(self, event: Deferred[None], seconds: float) -> None:
        self._waiting = event
        # After a stall of the process, the callbacks that have arrived are read first.
        deadline = Deadline(self._clock, seconds, event.cancel)
        try:
            await event
        except CancelledError:
            pass
        finally:
            deadline.cancel()
            self._waiting = None
