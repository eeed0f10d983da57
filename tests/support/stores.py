"""Stores of either kind for several nodes, which record the messages that they receive."""

import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from jobproxy.store.interface import IStore, Message, StoreUnreachable
from jobproxy.store.memory import MemoryStore
from jobproxy.store.redis import RedisStore
from jobproxy.store.redis_address import RedisAddress, read_redis_address
from jobproxy.store.shared import Shared
from jobproxy.store.sqlite import SqliteStore
from jobproxy.store.sqlite_address import read_sqlite_address
from jobproxy.store.sqlite_file import SqliteFile
from jobproxy.store.sqlite_session import Session
from jobproxy.store.times import Times
from jobproxy.wire.tokens import LIFETIME
from tests.support.reactor import reactor, until_closed
from tests.support.redis_server import RedisServer
from tests.support.waiting import DEADLINE

#: So short that a test can wait for their end.
SHORT_TIMES = Times(beat=0.1, settle=0.3, answer=2.0)


@define(eq=False)
class RecordingListener:
    """Records messages.

    :ivar caught_up: how many times it caught up.
    :ivar fails: whether it fails on each message, as a node with a bug does.
    :ivar is_cut_off: whether it fails to catch up, as when the store is lost meanwhile.
    """

    messages: list[Message] = field(factory=list)
    caught_up: int = 0
    fails: bool = False
    is_cut_off: bool = False

    def receive(self, message: Message) -> None:
        self.messages.append(message)
        if self.fails:
            raise RuntimeError("this node has a bug")

    def catch_up(self) -> Deferred[None]:
        self.caught_up += 1
        return fail(StoreUnreachable()) if self.is_cut_off else succeed(None)


def make_endpoint(host: str, port: int) -> IStreamClientEndpoint:
    return HostnameEndpoint(reactor, host.encode(), port, 2)


def make_redis_store(
    address: RedisAddress | str,
    node: str,
    retain: float = 60.0,
    make_endpoint: Callable[[str, int], IStreamClientEndpoint] = make_endpoint,
    times: Times = SHORT_TIMES,
    *,
    key_life: float = LIFETIME,
) -> RedisStore:
    """Return a store with short times that is not open."""
    where = read_redis_address(address) if isinstance(address, str) else address
    assert where is not None
    return RedisStore(reactor, where, make_endpoint, node, retain, key_life, times)


@define(eq=False)
class Disk:
    """A folder for a store, and the thread that writes to it.

    :ivar is_broken: whether everything fails, as on a broken disk.
    """

    _pool: ThreadPool = field(factory=lambda: ThreadPool(1, 1), init=False)
    _folder: TemporaryDirectory[str] = field(factory=TemporaryDirectory, init=False)
    is_broken: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._pool.start()

    @property
    def path(self) -> str:
        return f"{self._folder.name}/store.db"

    def call(self, work: Callable[[], Any]) -> Deferred[Any]:
        """Call a function in the thread."""
        return deferToThreadPool(reactor, self._pool, self._do, work)

    def end(self) -> None:
        self._pool.stop()
        self._folder.cleanup()

    def _do(self, work: Callable[[], Any]) -> Any:
        if not self.is_broken:
            return work()
        return [Failure(sqlite3.OperationalError("disk I/O error"))]


def make_sqlite_store(disk: Disk, node: str, retain: float, key_life: float) -> SqliteStore:
    """Return a store in a file that is not open."""
    file = SqliteFile(read_sqlite_address(disk.path))
    session = Session(reactor, file, disk.call, time.time, SHORT_TIMES)
    return SqliteStore(session, node, retain, key_life)


_LISTENERS: "WeakKeyDictionary[Any, RecordingListener]" = WeakKeyDictionary()


def listener_of(store: Any) -> RecordingListener:
    """Return the listener that a store was opened with."""
    return _LISTENERS[store]


def open_store(store: Any) -> None:
    """Open a store, with the same listener each time."""
    store.open(_LISTENERS.setdefault(store, RecordingListener()))


async def until(is_true: Callable[[], object], seconds: float = DEADLINE) -> None:
    """Wait for something that has to become true."""
    for _ in range(int(seconds / 0.01)):
        if is_true():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it did not come true")


@define(eq=False)
class Cluster:
    """The stores of several nodes.

    :param redis: the server, if it is one.
    :param disk: that of a file, if it is one.
    """

    stores: list[Any]
    redis: RedisServer | None = None
    disk: "Disk | None" = None

    @property
    def listeners(self) -> list[RecordingListener]:
        return [listener_of(store) for store in self.stores]

    async def lose_store(self) -> None:
        """Let no node reach the store."""
        if self.redis is not None:
            self.redis.stop()
        elif self.disk is not None:
            self.disk.is_broken = True
            await refuses(self.stores[0].find_claim(b""), StoreUnreachable)
        else:
            for store in self.stores:
                store.go_away()
        await until(lambda: not any(store.is_up for store in self.stores))


@asynccontextmanager
async def run_stores(
    kind: str,
    nodes: tuple[str, ...],
    retain: float,
    redis: RedisServer,
    key_life: float = LIFETIME,
) -> AsyncIterator[Cluster]:
    """Run a store for each of these nodes.

    :param kind: ``memory``, ``redis``, or ``sqlite``, which has only the first of the nodes.
    """
    stores: list[Any]
    disk = Disk() if kind == "sqlite" else None
    if kind == "memory":
        shared = Shared(reactor, retain, key_life)
        stores = [MemoryStore(shared, node) for node in nodes]
    elif disk is not None:
        stores = [make_sqlite_store(disk, nodes[0], retain, key_life)]
    else:
        redis.ask("FLUSHALL")
        redis.ask("SET", "jobproxy:epoch", "1")
        stores = [make_redis_store(redis.url, node, retain, key_life=key_life) for node in nodes]
    for store in stores:
        open_store(store)
    try:
        await until(lambda: all(store.is_up and store.is_joined for store in stores))
        for store in stores:
            listener_of(store).caught_up = 0
        each = stores if disk is None else stores * len(nodes)
        yield Cluster(each, redis if kind == "redis" else None, disk)
    finally:
        for store in stores:
            await store.close()
        if disk is not None:
            disk.end()
        await until_closed()


async def refuses(asking: Awaitable[object], kind: type[Exception]) -> bool:
    """Whether something fails with this error."""
    try:
        await asking
    except kind:
        return True
    return False


def as_store(store: object) -> IStore:
    """Return something as what the interface says, which is all that is promised."""
    return IStore(store)


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """Collect what is logged as an error."""
    found: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event["log_level"].name in {"error", "critical"}:
            found.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


@asynccontextmanager
async def running(*stores: RedisStore, waits: bool = True) -> AsyncIterator[Any]:
    """Run stores while the context lasts."""
    for store in stores:
        open_store(store)
    try:
        if waits:
            await until(lambda: all(store.is_up for store in stores))
        yield listener_of(stores[0])
    finally:
        for store in stores:
            await store.close()
        await until_closed()
