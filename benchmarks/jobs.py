"""The job server of the load: acks every start request, and sends a callback at the job's end."""

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter
from typing import cast

from wire import Messages, NotUnderstood, closes_connection, is_success, make_post, make_response

#: The fraction by which a job's duration varies. With equal durations clients would synchronize:
#: get their responses in a burst and send their next jobs in a burst.
SPREAD = 0.2
#: The maximum of connections to the gateway for callbacks; further callbacks wait for one.
MAX_CONNECTIONS = 256


def make_result(number: int) -> bytes:
    """Return the unique result of a job."""
    return (
        b'{"id":"%016x","state":"completed","startedAt":"2015-06-29T15:28:55.497Z",'
        b'"number":%d,"proof":"%040X"}' % (number, number, number**4)
    )


class JobServer:
    """Runs any number of jobs at once.

    :param duration: average seconds of a job; :data:`None`: jobs run until :meth:`end_all`.
    :ivar errors: the numbers of errors by message.
    :ivar on_start: is called after each start request.
    """

    def __init__(self, pool: "CallbackPool", duration: float | None, errors: Counter[str]) -> None:
        self._pool = pool
        self._duration = duration
        self.errors = errors
        self.on_start: Callable[[], None] = lambda: None
        self._random = random.Random(1)
        self._running: dict[int, tuple[float, str]] = {}
        self._took: dict[int, float] = {}

    def begin(self, job: dict[str, object]) -> None:
        """Start a job."""
        number, callback = job["number"], job["callback"]
        assert isinstance(number, int)
        assert isinstance(callback, str)
        if job["wait"] is not False:
            self.errors["a start request without wait: false"] += 1
        if number in self._running or number in self._took:
            self.errors["a job was started twice"] += 1
        self._running[number] = (perf_counter(), callback)
        if self._duration == 0:
            self._end(number)
        elif self._duration is not None:
            duration = self._duration * self._random.uniform(1 - SPREAD, 1 + SPREAD)
            asyncio.get_running_loop().call_later(duration, self._end, number)
        self.on_start()

    def end_all(self) -> None:
        """End all running jobs."""
        for number in list(self._running):
            self._end(number)

    def pop_duration(self, number: int) -> float:
        """Return the measured seconds of an ended job, and forget it; 0 if it was not started.

        The timers of the event loop are not precise enough to use the planned duration.
        """
        return self._took.pop(number, 0)

    def _end(self, number: int) -> None:
        began, callback = self._running.pop(number)
        self._took[number] = perf_counter() - began
        self._pool.post(callback, make_result(number))


class StartConnection(asyncio.Protocol):
    """A connection of the gateway for one start request or many."""

    def __init__(self, server: JobServer) -> None:
        self._server = server
        self._messages = Messages()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's class has the methods of asyncio.Transport, but does not inherit from it.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            starts = self._messages.feed(data)
        except NotUnderstood as error:
            self._server.errors[f"start request: {error}"] += 1
            self._transport.abort()
            return
        for head, body in starts:
            job = json.loads(body)
            is_last = closes_connection(head)
            ack = b'{"state":"running","id":"%016x"}' % job["number"]
            self._transport.write(make_response(ack, close=is_last))
            if is_last:
                self._transport.close()
            self._server.begin(job)


class CallbackPool:
    """Sends callbacks to the gateway over kept connections.

    :param port: of the gateway, on 127.0.0.1.
    """

    def __init__(self, port: int, errors: Counter[str]) -> None:
        self._port = port
        self._host = f"127.0.0.1:{port}"
        self.errors = errors
        # The least recently used is next, so that the gateway does not close it as idle.
        self._idle: deque[CallbackConnection] = deque()
        self._waiting: deque[bytes] = deque()
        self._open = 0
        self._opening: set[asyncio.Task[None]] = set()

    def post(self, url: str, body: bytes) -> None:
        """POST a result, at once if a connection is free or can be opened."""
        host, _, path = url.removeprefix("http://").partition("/")
        if host != self._host:
            self.errors[f"callback URL with host {host}"] += 1
            return
        request = make_post(host.encode(), b"/" + path.encode(), body)
        if self._idle:
            self._idle.popleft().send(request)
            return
        self._waiting.append(request)
        if self._open < MAX_CONNECTIONS:
            self._open += 1
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def release(self, connection: "CallbackConnection") -> None:
        """Use a free connection for the next callback."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def remove(self, connection: "CallbackConnection") -> None:
        """Remove a connection that was closed."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: CallbackConnection(self), "127.0.0.1", self._port)
        except OSError as error:
            self._open -= 1
            self.errors[f"callback connection: {error.strerror}"] += 1


class CallbackConnection(asyncio.Protocol):
    """One connection of the pool, with one callback at a time."""

    def __init__(self, pool: CallbackPool) -> None:
        self._pool = pool
        self._messages = Messages()
        self._is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's class has the methods of asyncio.Transport, but does not inherit from it.
        self._transport = cast(asyncio.Transport, transport)
        self._pool.release(self)

    def send(self, request: bytes) -> None:
        self._is_busy = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            responses = self._messages.feed(data)
        except NotUnderstood as error:
            self._pool.errors[f"response to a callback: {error}"] += 1
            self._transport.abort()
            return
        for head, body in responses:
            self._is_busy = False
            if not is_success(head):
                self._pool.errors[f"callback got {head[9:12]!r} {body[:100]!r}"] += 1
            if closes_connection(head):
                self._transport.close()
            else:
                self._pool.release(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_busy:
            self._pool.errors[f"callback got no response: {exc}"] += 1
        self._pool.remove(self)
