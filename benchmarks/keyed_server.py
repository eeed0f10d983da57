"""The job server of jobs with Idempotency-Keys: counts the starts of each, and repeats callbacks.

What it responds to a start request is up to the mode, so that it can be any kind of fault.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

from attrs import define, field, frozen
from nodes import Connection
from wire import Messages, NotUnderstood, make_response

from jobproxy.sandbox.processes import find_free_port

#: Seconds for which a callback is repeated, and between two attempts.
STAMINA = 60.0
PAUSE = 0.25


@frozen
class Start:
    """A start request that was read.

    :param turn: how many start requests of this job were read before.
    :param raw: the body of the request.
    """

    tag: int
    turn: int
    account: str
    callback: str
    raw: bytes

    @property
    def token(self) -> str:
        return self.callback.rpartition("/")[2]


@frozen
class Answer:
    """What the job server does with a start request.

    :param response: the bytes; empty: the connection ends.
    :param runs: whether the job is started.
    :param delay: seconds before the response.
    """

    response: bytes
    runs: bool = True
    delay: float = 0.0


def make_ack(start: Start) -> Answer:
    """Return the ack of a job server without faults."""
    return Answer(make_response(b'{"id":"%x","state":"running"}' % start.tag, close=False))


def make_result(tag: int, size: int = 0) -> bytes:
    """Return the result of a job; it is at least so many bytes long."""
    return b'{ "id":"%x", "state":"completed",\t"tag":%d, "fill":"%b" }\n' % (tag, tag, b"x" * size)


async def answer_at_once(start: Start) -> Answer:
    """Return the ack of a start request."""
    return make_ack(start)


@define(eq=False)
class KeyedServer:
    """Runs any number of jobs at once.

    :param answer: says what is done with a start request.
    :param duration: returns the seconds of a job, by its tag.
    :param size: returns about the bytes of the result of a job of an account.
    :ivar starts: how often each job was started; a start that was refused does not count.
    :ivar callbacks: the callback URL of the last start request of each job.
    :ivar safe: the jobs whose callback got 200.
    :ivar receipts: the numbers of responses to callbacks.
    :ivar strangers: the numbers of requests that are no start requests.
    """

    answer: Callable[[Start], Awaitable[Answer]] = answer_at_once
    duration: Callable[[int], float] = lambda _: 0.2
    size: Callable[[str], int] = lambda _: 0
    port: int = field(factory=find_free_port)
    starts: Counter[int] = field(factory=Counter)
    callbacks: dict[int, str] = field(factory=dict)
    safe: set[int] = field(factory=set)
    receipts: Counter[str] = field(factory=Counter)
    strangers: Counter[str] = field(factory=Counter)
    _turns: Counter[int] = field(factory=Counter)
    _running: dict[int, "asyncio.Task[None]"] = field(factory=dict)
    _tasks: set["asyncio.Task[None]"] = field(factory=set)
    _idle: list[Connection] = field(factory=list)

    async def listen(self) -> asyncio.AbstractServer:
        return await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=4096)

    async def settle(self, tag: int) -> None:
        """Wait until the callback of a job got 200, or is given up; at once if there is none."""
        task = self._running.get(tag)
        if task is not None:
            await asyncio.wait([task])

    async def finish(self) -> None:
        """Wait until every callback got 200, or is given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        while self._idle:
            self._idle.pop().close()

    def read(self, head: bytes, body: bytes) -> Start | None:
        """Return a start request; :data:`None` if it is something else."""
        line = head.partition(b"\r\n")[0].decode("latin-1")
        if line != "POST /start HTTP/1.1":
            self.strangers[line] += 1
            return None
        job = json.loads(body)
        tag = job["tag"]
        self.callbacks[tag] = job["callback"]
        turn = self._turns[tag]
        self._turns[tag] += 1
        return Start(tag, turn, job["account"], job["callback"], body)

    def run(self, start: Start) -> None:
        """Start the job, and send its callback at its end."""
        self.starts[start.tag] += 1
        task = asyncio.create_task(self._run(start))
        self._running[start.tag] = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        messages = Messages()
        # At the end this is cancelled, which asyncio would report.
        with suppress(asyncio.CancelledError, OSError, NotUnderstood):
            while data := await reader.read(65_536):
                for head, body in messages.feed(data):
                    response = await self._respond(head, body)
                    if not response:
                        writer.transport.abort()
                        return
                    writer.write(response)
        writer.close()

    async def _respond(self, head: bytes, body: bytes) -> bytes:
        start = self.read(head, body)
        if start is None:
            return b""
        answer = await self.answer(start)
        if answer.runs:
            self.run(start)
        if answer.delay:
            await asyncio.sleep(answer.delay)
        return answer.response

    async def _run(self, start: Start) -> None:
        await asyncio.sleep(self.duration(start.tag))
        address, _, path = start.callback.removeprefix("http://127.0.0.1:").partition("/")
        body = make_result(start.tag, self.size(start.account))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + STAMINA
        while loop.time() < deadline:
            try:
                status, response = await self._call(int(address), f"/{path}", body)
            except (OSError, asyncio.TimeoutError):
                self.receipts["no response"] += 1
            else:
                if status == 200:
                    self.receipts[json.loads(response)["status"]] += 1
                    self.safe.add(start.tag)
                    return
                self.receipts[str(status)] += 1
            await asyncio.sleep(PAUSE)
        self.receipts["given up"] += 1

    async def _call(self, port: int, path: str, body: bytes) -> tuple[int, bytes]:
        connection = self._idle.pop() if self._idle else Connection(port)
        try:
            status, _, response = await connection.post(path, body)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return status, response
