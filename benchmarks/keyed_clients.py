"""Clients that send jobs with Idempotency-Keys, come again, and keep the books of what they got."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

from attrs import define, field
from keyed_server import KeyedServer, make_result
from nodes import Connection
from wire import NotUnderstood

#: Seconds between two attempts of a client.
PAUSE = 0.1
#: Seconds in which a client reaches a proxy that starts, however busy the machine is, and gets its
#: result.
PATIENCE = 300.0


@define(eq=False)
class KeyedClients:
    """All clients of one run.

    :param account: returns the account of a job, by its tag.
    :param may_lose: whether the result of a job may be gone once its client or the job server was
        told 200, by the job's account; that it was started may never be.
    :param headers: more header lines of the first request of a job, by its tag.
    :param inspect: is awaited with each response: a tag, its head and its body.
    :ivar responses: the numbers of responses by status, problem and ``started``.
    :ivar wrong: the numbers of broken promises.
    :ivar got: the jobs whose client got the result.
    """

    port: int
    server: KeyedServer
    account: Callable[[int], str] = lambda tag: f"a{tag % 100}"
    may_lose: Callable[[str], bool] = lambda _: False
    headers: Callable[[int], str] = lambda _: ""
    inspect: Callable[[int, bytes, bytes], Awaitable[None]] | None = None
    responses: Counter[str] = field(factory=Counter)
    wrong: Counter[str] = field(factory=Counter)
    examples: list[str] = field(factory=list)
    got: set[int] = field(factory=set)
    tags: set[int] = field(factory=set)
    _idle: list[Connection] = field(factory=list)

    async def send(self, tags: Iterable[int], concurrency: int) -> None:
        """Send these jobs, each until its client has its result or there can be none."""
        await self._share(tags, concurrency, self._send)
        await self.server.finish()

    async def verify(
        self, tags: Iterable[int], concurrency: int, *, has_results: bool = True
    ) -> None:
        """Ask for these jobs by their keys: nothing is started, and what was told 200 is there.

        :param has_results: whether results have to be there; that jobs were started always has to
            be known.
        """
        before = Counter(self.server.starts)

        async def verify(tag: int) -> None:
            await self._verify(tag, has_results)

        await self._share(tags, concurrency, verify)
        await self.server.finish()
        for tag, starts in self.server.starts.items():
            if starts > 1:
                self._blame(tag, "second start")
            # What nobody had started yet may be started for a client that comes again.
            if before[tag] and starts > before[tag]:
                self._blame(tag, "started by a client that came again")
        if self.server.receipts["given up"]:
            self.wrong["callback never got 200"] += self.server.receipts["given up"]
        for line, count in self.server.strangers.items():
            self.wrong[f"request {line}"] += count

    async def _share(
        self, tags: Iterable[int], concurrency: int, work: Callable[[int], Awaitable[None]]
    ) -> None:
        left = iter(tags)

        async def run(wait: float) -> None:
            await asyncio.sleep(wait)
            for tag in left:
                await work(tag)

        await asyncio.gather(*(run(0.5 * turn / concurrency) for turn in range(concurrency)))
        while self._idle:
            self._idle.pop().close()

    async def _send(self, tag: int) -> None:
        self.tags.add(tag)
        more = self.headers(tag)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            status, body = await self.ask(tag, more)
            more = ""
            if status == 200:
                self._check(tag, body)
                return
            if status in {0, 202, 409}:
                await self.server.settle(tag)
                if status == 409:
                    self._judge_gone(tag)
                    return
            elif json.loads(body)["started"] == "no":
                if self.server.starts[tag]:
                    self._blame(tag, "started: no for a job that was started")
            else:
                await self.server.settle(tag)
                if tag not in self.server.safe:
                    # Nobody can know more: the request was read, and no job runs.
                    return
            await asyncio.sleep(PAUSE)
        self._blame(tag, "no result after a long time")

    async def _verify(self, tag: int, has_results: bool) -> None:
        end = time.monotonic() + PATIENCE
        status, body = 0, b""
        while time.monotonic() < end:
            status, body = await self.ask(tag)
            if status == 200:
                self._check(tag, body)
                return
            if status not in {0, 429, 503}:
                break
            await asyncio.sleep(PAUSE)
        if status == 409:
            if has_results:
                self._judge_gone(tag)
        elif tag in self.got or tag in self.server.safe:
            self._blame(tag, f"told 200, and then {status} {body[:200]!r}")

    def _judge_gone(self, tag: int) -> None:
        is_told = tag in self.got or tag in self.server.safe
        if is_told and not self.may_lose(self.account(tag)):
            self._blame(tag, "told 200, and then result-gone")

    def _check(self, tag: int, body: bytes) -> None:
        self.got.add(tag)
        if body != make_result(tag, self.server.size(self.account(tag))):
            self._blame(tag, f"wrong result {body[:200]!r}")

    def _blame(self, tag: int, word: str) -> None:
        self.wrong[word.partition(" {")[0][:60]] += 1
        if len(self.examples) < 10:
            self.examples.append(f"job {tag}: {word}")

    async def ask(self, tag: int, more: str = "") -> tuple[int, bytes]:
        """Send a job; return the status and the body, or 0 if there was no response."""
        body = json.dumps({"account": self.account(tag), "tag": tag}).encode()
        headers = f"Idempotency-Key: key-{tag}\r\n{more}"
        try:
            async with self.connect() as connection:
                status, head, body = await connection.post("/proxy", body, headers)
        except (OSError, asyncio.TimeoutError, NotUnderstood) as error:
            self.responses[f"none: {type(error).__name__}"] += 1
            return 0, b""
        word = str(status)
        if status >= 400:
            problem = json.loads(body)
            started = problem.get("started", "not said")
            word += f" {problem['type'].rpartition(':')[2]}, started {started}"
        self.responses[word] += 1
        if self.inspect is not None:
            await self.inspect(tag, head, body)
        return status, body

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Lend a connection, which is kept unless it fails."""
        connection = self._idle.pop() if self._idle else Connection(self.port)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
