"""The job server's side of the load: acks every start, and calls back when the job has ended."""

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import Callable
from time import perf_counter
from typing import cast

from wire import Messages, NotUnderstood, is_success, make_answer, make_post, wants_close

#: By how much of itself a job's duration may vary. Clients whose jobs took just as long would be
#: answered in one burst and send the next jobs in one, and ever more so.
SPREAD = 0.2
#: Connections to the gateway for callbacks; more callbacks than that wait for one of them.
MAX_CONNECTIONS = 256


def make_result(number: int) -> bytes:
    """Return the result of a job, which is like no other's."""
    return (
        b'{"id":"%016x","state":"completed","startedAt":"2015-06-29T15:28:55.497Z",'
        b'"number":%d,"proof":"%040X"}' % (number, number, number**4)
    )


class JobServer:
    """Runs the jobs of all accounts, as many at once as there are.

    :param duration: seconds from a job's start to its callback, more or less; :data:`None` if
        :meth:`end_all` says when.
    :ivar errors: what went wrong, and how often.
    :ivar on_start: called after each start.
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
            self.errors["a start that does not say wait: false"] += 1
        if number in self._running or number in self._took:
            self.errors["a job that was started twice"] += 1
        self._running[number] = (perf_counter(), callback)
        if self._duration == 0:
            self._end(number)
        elif self._duration is not None:
            duration = self._duration * self._random.uniform(1 - SPREAD, 1 + SPREAD)
            asyncio.get_running_loop().call_later(duration, self._end, number)
        self.on_start()

    def end_all(self) -> None:
        """End all jobs that run."""
        for number in list(self._running):
            self._end(number)

    def take_duration(self, number: int) -> float:
        """Return how many seconds a job that has ended really took; 0 if it never was started.

        That is measured, since the timers of the event loop are in whole milliseconds.
        """
        return self._took.pop(number, 0)

    def _end(self, number: int) -> None:
        began, callback = self._running.pop(number)
        self._took[number] = perf_counter() - began
        self._pool.post(callback, make_result(number))


class StartConnection(asyncio.Protocol):
    """A connection that the gateway starts jobs on: one for each start, or one for many."""

    def __init__(self, server: JobServer) -> None:
        self._server = server
        self._messages = Messages()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by its class, only by what it can do.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            starts = self._messages.feed(data)
        except NotUnderstood as error:
            self._server.errors[f"a start: {error}"] += 1
            self._transport.abort()
            return
        for head, body in starts:
            job = json.loads(body)
            is_last = wants_close(head)
            ack = b'{"state":"running","id":"%016x"}' % job["number"]
            self._transport.write(make_answer(ack, close=is_last))
            if is_last:
                self._transport.close()
            self._server.begin(job)


class CallbackPool:
    """POSTs results to the gateway over connections that are kept.

    :param port: the gateway's, on 127.0.0.1.
    """

    def __init__(self, port: int, errors: Counter[str]) -> None:
        self._port = port
        self._host = f"127.0.0.1:{port}"
        self.errors = errors
        # The one that was used longest ago is next, so that none idles until the gateway closes it.
        self._idle: deque[CallbackConnection] = deque()
        self._waiting: deque[bytes] = deque()
        self._open = 0
        self._opening: set[asyncio.Task[None]] = set()

    def post(self, url: str, body: bytes) -> None:
        """POST a result, at once if there is a connection for it."""
        host, _, path = url.removeprefix("http://").partition("/")
        if host != self._host:
            self.errors[f"a callback URL at {host}"] += 1
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
        """Take a connection that is free, for the next callback."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def lose(self, connection: "CallbackConnection") -> None:
        """Forget a connection that has been closed."""
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: CallbackConnection(self), "127.0.0.1", self._port)
        except OSError as error:
            self._open -= 1
            self.errors[f"a callback connection: {error.strerror}"] += 1


class CallbackConnection(asyncio.Protocol):
    """One connection of the pool, with one callback at a time."""

    def __init__(self, pool: CallbackPool) -> None:
        self._pool = pool
        self._messages = Messages()
        self._is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is none by its class, only by what it can do.
        self._transport = cast(asyncio.Transport, transport)
        self._pool.release(self)

    def send(self, request: bytes) -> None:
        self._is_busy = True
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        try:
            answers = self._messages.feed(data)
        except NotUnderstood as error:
            self._pool.errors[f"an answer to a callback: {error}"] += 1
            self._transport.abort()
            return
        for head, body in answers:
            self._is_busy = False
            if not is_success(head):
                self._pool.errors[f"a callback was answered {head[9:12]!r} {body[:100]!r}"] += 1
            if wants_close(head):
                self._transport.close()
            else:
                self._pool.release(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._is_busy:
            self._pool.errors[f"a callback had no answer: {exc}"] += 1
        self._pool.lose(self)
