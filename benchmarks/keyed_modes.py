"""The faults that jobs with Idempotency-Keys have to survive; each is a mode of its own.

Every mode sends jobs to a real proxy, and asks for each of them again by its key at the end.
"""

import asyncio
import random
import re
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from attrs import define, field
from broken_tls import BrokenTLS, make_contexts
from echoes import Echoes, Spies
from keyed_clients import KeyedClients
from keyed_server import Answer, KeyedServer, Start, make_ack

from jobproxy.sandbox.processes import DaemonProcess, find_free_port

#: Seconds; the start timeout is far more than an ack takes on a busy machine.
TIMES = {"start-timeout": "5", "ambiguous-grace": "0.5", "wait": "20", "retain": "3600"}

#: Jobs whose results the proxy's memory surely holds.
BATCH = 20_000


@define(eq=False)
class Run:
    """One run of a mode.

    :param jobs: how many are sent.
    :param concurrency: how many clients send them.
    :ivar details: more rows of the table.
    :ivar faults: what is wrong besides the promises to clients.
    """

    jobs: int
    concurrency: int
    folder: Path
    details: dict[str, int] = field(factory=dict)
    faults: list[str] = field(factory=list)
    clients: KeyedClients = field(init=False)

    def start(
        self,
        server: KeyedServer,
        options: dict[str, str],
        port: int | None = None,
        variables: dict[str, str] | None = None,
    ) -> DaemonProcess:
        """Start a proxy; it has to be stopped."""
        port = port or find_free_port()
        settings = {
            "callback-url": f"http://127.0.0.1:{port}/callback",
            "job-server-url": f"http://127.0.0.1:{server.port}/start",
            "starts-per-account": "1000",
            **TIMES,
            **options,
        }
        proxy = DaemonProcess("jobproxy", settings, port, logger="", variables=variables or {})
        return proxy.__enter__()

    @asynccontextmanager
    async def proxy(
        self,
        server: KeyedServer,
        options: dict[str, str] | None = None,
        variables: dict[str, str] | None = None,
    ) -> AsyncIterator[DaemonProcess]:
        """Run a proxy in this context, and look at its log at the end."""
        proxy = await asyncio.to_thread(self.start, server, options or {}, None, variables)
        try:
            yield proxy
            self.read_log(proxy)
        finally:
            await asyncio.to_thread(proxy.stop)

    def read_log(self, proxy: DaemonProcess) -> None:
        """Find errors of the proxy itself in its log."""
        if "Traceback" in proxy.log:
            self.faults.append(f"traceback in the log: {proxy.log[-3000:]}")

    async def play(self, clients: KeyedClients, *, has_store: bool = False) -> None:
        """Send all jobs, and ask for each again: once soon, and once at the end.

        :param has_store: whether all results are still there at the end.
        """
        self.clients = clients
        for first in range(0, self.jobs, BATCH):
            tags = range(first, min(first + BATCH, self.jobs))
            await clients.send(tags, self.concurrency)
            await clients.verify(tags, self.concurrency)
        if self.jobs > BATCH:
            await clients.verify(range(self.jobs), self.concurrency, has_results=has_store)


def vary(tag: int) -> float:
    """Return the seconds of a job, so that callbacks come before the ack and after it."""
    return 0.4 * random.Random(tag).random() ** 2


async def tls(run: Run) -> None:
    """The job server breaks TLS: in handshakes, and once the start request was read."""
    server = KeyedServer(duration=vary)
    broken = BrokenTLS(server, make_contexts(run.folder))
    variables = {"SSL_CERT_FILE": str(run.folder / "authority.pem")}
    options = {"job-server-url": f"https://127.0.0.1:{server.port}/start"}
    async with await broken.listen(), run.proxy(server, options, variables) as proxy:
        await run.play(KeyedClients(proxy.port, server))
    run.details.update(broken.faults)


#: Redirects that may mean that the job was started, and those that say that it was not.
DOUBTFUL = (300, 301, 302, 303, 304, 305, 306)
REFUSING = (307, 308)


async def redirects(run: Run) -> None:
    """The job server answers start requests with redirects, which nobody may follow."""
    chance = random.Random(1)

    async def redirect(start: Start) -> Answer:
        if chance.random() < 0.6:
            return make_ack(start)
        status = chance.choice((*DOUBTFUL, *REFUSING))
        path = chance.choice(("/start", "/elsewhere", f"http://127.0.0.1:{server.port}/start"))
        run.details[f"redirects {status}"] = run.details.get(f"redirects {status}", 0) + 1
        head = f"HTTP/1.1 {status} Moved\r\nLocation: {path}\r\nContent-Length: 0\r\n\r\n"
        runs = status in DOUBTFUL and chance.random() < 0.8
        return Answer(head.encode(), runs, chance.choice((0.0, 0.05, 0.3)))

    server = KeyedServer(redirect, vary)
    async with await server.listen(), run.proxy(server) as proxy:
        await run.play(KeyedClients(proxy.port, server))


async def echoes(run: Run) -> None:
    """The job server's acks quote the start request: its token must not reach clients."""
    kinds = Echoes()
    server = KeyedServer(kinds.answer, lambda tag: 0.2 + vary(tag))
    async with await server.listen(), run.proxy(server) as proxy:
        spies = Spies(proxy.port, server)
        clients = KeyedClients(
            proxy.port,
            server,
            # Every other client is told of the ack.
            headers=lambda tag: "Prefer: respond-async\r\n" if tag % 2 else "",
            inspect=spies.inspect,
        )
        await run.play(clients)
        clients.wrong.update(spies.wrong)
        log = proxy.log
        if any(url.rpartition("/")[2] in log for url in server.callbacks.values()):
            clients.wrong["token in the log"] += 1
    run.details.update(kinds.kinds)
    run.details["attempts to forge a result"] = spies.attempts


#: Bytes of a neighbour's result; a few accounts of them fill the memory for results.
LARGE = 200_000
#: Of five jobs so many are those of neighbours: the results of all others fit into the memory.
NEIGHBOURS = 3
#: Jobs of one other account: their results are far less than its share.
OWN = 40


def _name_account(tag: int) -> str:
    if tag % 5 < NEIGHBOURS:
        return f"neighbour-{tag // 5 % 5}"
    return f"account-{tag // OWN}"


async def neighbours(run: Run) -> None:
    """A few accounts fill the memory with large results; the keys of others stay promises.

    Afterwards a second proxy keeps results for a second only, so that all are gone.
    """
    server = KeyedServer(
        duration=vary, size=lambda account: LARGE if account.startswith("neighbour") else 0
    )
    options = {"max-body": str(2 * LARGE)}
    async with await server.listen(), run.proxy(server, options) as proxy:
        clients = KeyedClients(
            proxy.port,
            server,
            _name_account,
            may_lose=lambda account: account.startswith("neighbour"),
        )
        await run.play(clients)
        run.details["bytes of neighbours' results"] = LARGE * run.jobs * NEIGHBOURS // 5
        gone = sum(n for word, n in clients.responses.items() if "result-gone" in word)
        run.details["results of neighbours that had to go"] = gone
    if run.faults or clients.wrong:
        return
    second = KeyedServer(duration=vary, size=server.size)
    async with (
        await second.listen(),
        run.proxy(second, {**options, "retain": "1"}) as proxy,
    ):
        late = KeyedClients(proxy.port, second, _name_account, may_lose=lambda _: True)
        tags = range(max(100, run.jobs // 10))
        await late.send(tags, run.concurrency)
        # A result may outlive its time by a second.
        await asyncio.sleep(3)
        await late.verify(tags, run.concurrency)
        clients.wrong.update(late.wrong)
        clients.examples.extend(late.examples)
        gone = sum(n for word, n in late.responses.items() if "result-gone" in word)
        run.details["keys asked for after the time of their results"] = len(late.tags)
        run.details["of these result-gone"] = gone


async def _repeat(step: Callable[[], Awaitable[None]], done: "asyncio.Task[None]") -> None:
    """Repeat a step until a task is done; raise what either raises."""
    while not done.done():
        await step()
    await done


async def kills(run: Run) -> None:
    """The proxy has a store in a file, and is killed again and again, also before the end."""
    server = KeyedServer(duration=vary)
    # Whoever asks for a job that may never have been started waits for its callback; that must not
    # be for longer than a process lives.
    options = {"store": f"sqlite:{run.folder / 'store.db'}", "wait": "1"}
    port = find_free_port()
    proxy = await asyncio.to_thread(run.start, server, options, port)
    number = 0

    async def kill() -> None:
        nonlocal proxy, number
        await asyncio.sleep(random.uniform(0.3, 3.0))
        number += 1
        await asyncio.to_thread(restart)

    def restart() -> None:
        nonlocal proxy
        proxy.process.kill()
        proxy.process.wait()
        run.read_log(proxy)
        proxy.stop()
        proxy = run.start(server, options, port)

    try:
        async with await server.listen():
            run.clients = clients = KeyedClients(port, server)
            tags = range(run.jobs)
            await _repeat(kill, asyncio.create_task(clients.send(tags, run.concurrency)))
            await kill()
            await clients.verify(tags, run.concurrency)
            run.read_log(proxy)
    finally:
        await asyncio.to_thread(proxy.stop)
    run.details["kills"] = number


#: Steps of the wall clock in seconds. Keys and tokens live for a day on it, so that steps of less
#: than half a day in each direction must not matter.
STEPS = (-39_600, -3_600, -61, -1, 0, 1, 61, 3_600, 39_600)


async def clocks(run: Run, store: str = "", retain: int = 3_600) -> None:
    """The wall clock steps back and forth by up to eleven hours, ten times a second."""
    library, offset = run.folder / "wall_clock.so", run.folder / "offset"
    source = Path(__file__).with_name("wall_clock.c")
    compiler = await asyncio.create_subprocess_exec(
        "cc", "-shared", "-fPIC", "-o", library, source, "-ldl"
    )
    if await compiler.wait():
        raise OSError("the library could not be compiled")
    offset.write_bytes(struct.pack("=q", 0))
    variables = {"LD_PRELOAD": str(library), "WALL_CLOCK": str(offset)}
    server = KeyedServer(duration=vary)
    options = {"retain": str(retain)}
    if store:
        options["store"] = f"sqlite:{run.folder / store}"
    number = wrong_dates = 0

    async def look(_tag: int, head: bytes, _body: bytes) -> None:
        nonlocal wrong_dates
        date = re.search(rb"\r\nDate: ([^\r]+)", head)
        if date is not None:
            shown = parsedate_to_datetime(date[1].decode()).timestamp()
            wrong_dates += abs(shown - time.time()) > 30

    async def step() -> None:
        nonlocal number
        number += 1
        with offset.open("r+b") as file:
            file.write(struct.pack("=q", random.choice(STEPS)))
        await asyncio.sleep(0.1)

    async with await server.listen(), run.proxy(server, options, variables) as proxy:
        clients = KeyedClients(proxy.port, server, inspect=look)
        await _repeat(step, asyncio.create_task(run.play(clients, has_store=bool(store))))
    run.details["steps of the wall clock"] = number
    run.details["responses with a wrong date"] = wrong_dates
    if not wrong_dates:
        run.faults.append("the proxy's wall clock was never wrong; this shows nothing")


async def clocks_sqlite(run: Run) -> None:
    """The same with a store in a file, which keeps its times by the wall clock."""
    await clocks(run, "store.db", retain=80_000)


MODES: dict[str, Callable[[Run], Coroutine[Any, Any, None]]] = {
    "tls": tls,
    "redirects": redirects,
    "echoes": echoes,
    "neighbours": neighbours,
    "kills": kills,
    "clocks": clocks,
    "clocks-sqlite": clocks_sqlite,
}
