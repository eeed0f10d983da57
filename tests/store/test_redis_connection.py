"""Connections to Redis: over TLS, and by Sentinel."""

import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from cryptography import x509
from twisted.internet.endpoints import HostnameEndpoint, TCP4ServerEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.protocols.portforward import ProxyFactory
from twisted.protocols.tls import TLSMemoryBIOFactory

from jobproxy.sandbox.processes import wait_until_served
from jobproxy.store.redis import RedisStore
from jobproxy.store.redis_address import RedisAddress
from tests.support.identities import ADDRESS, Identity, authority, issue
from tests.support.reactor import reactor, until_closed
from tests.support.redis_server import RedisServer, exchange, find_server
from tests.support.stores import make_redis_store, open_store, running, until

NODE = "node-one"
JOB_ID = f"AABrBmZl{NODE}rTQRFiGvvQ8WOrjqiMeQIQ"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def make_tls_endpoint(host: str, port: int) -> IStreamClientEndpoint:
    endpoint = HostnameEndpoint(reactor, host.encode(), port, 2)
    return wrapClientTLS(optionsForClientTLS(host), endpoint)


@asynccontextmanager
async def forwarding(redis: RedisServer, identity: Identity | None) -> AsyncIterator[int]:
    """Forward a port to Redis, over TLS if there is an identity; yield the port."""
    factory: Any = ProxyFactory("127.0.0.1", redis.port)
    factory.noisy = False
    if identity is not None:
        factory = TLSMemoryBIOFactory(identity.options(), False, factory)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        yield port.getHost().port
    finally:
        await port.stopListening()
        await until_closed()


@pytest_twisted.ensureDeferred
async def test_redis_that_goes_and_comes_back_is_logged_in_few_lines(redis: RedisServer) -> None:
    """X7: few lines say that Redis is away and that it is back, however often it was tried."""
    lines: list[str] = []

    def note(event: LogEvent) -> None:
        lines.append(formatEvent(event))

    store = make_redis_store(redis.url, NODE)
    globalLogPublisher.addObserver(cast(ILogObserver, note))
    try:
        async with running(store):
            redis.stop()
            await until(lambda: not store.is_up)
            # At least three attempts fail.
            await deferLater(reactor, 0.7)
            redis.start()
            await until(lambda: store.is_up)
    finally:
        globalLogPublisher.removeObserver(cast(ILogObserver, note))
    # There are two connections.
    counts = {
        "a connection to Redis is lost": 2,
        "Redis cannot be used; trying again": 2,
        "Redis can be used again, after": 2,
    }
    for beginning, most in counts.items():
        found = [line for line in lines if line.startswith(beginning)]
        assert 1 <= len(found) <= most, lines
    assert len(lines) <= sum(counts.values()), lines
    assert "Link(" not in "".join(lines)


def make_tls_store(port: int, host: str = "127.0.0.1") -> RedisStore:
    address = RedisAddress(((host, port),), password="secret", is_tls=True)
    return make_redis_store(address, NODE, make_endpoint=make_tls_endpoint)


@pytest.mark.usefixtures("trusted")
@pytest_twisted.ensureDeferred
async def test_redis_with_a_good_certificate_is_used_over_tls(redis: RedisServer) -> None:
    """A Redis whose certificate is good is used over TLS."""
    redis.ask("CONFIG", "SET", "requirepass", "secret")
    async with forwarding(redis, issue(authority(), ADDRESS)) as port:
        store = make_tls_store(port)
        async with running(store):
            await store.put_note(JOB_ID, b"x" * 100_000)
            assert await store.collect_job(JOB_ID) == (None, b"x" * 100_000)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize(
    "identity",
    [
        None,
        issue(None, ADDRESS),
        issue(authority(), x509.DNSName("redis.example")),
        issue(authority()),
    ],
    ids=["no TLS", "not trusted", "another name", "no name"],
)
@pytest_twisted.ensureDeferred
async def test_server_without_a_good_certificate_gets_no_password(
    redis: RedisServer,
    errors: list[str],
    identity: Identity | None,
) -> None:
    """A server that cannot prove to be our Redis gets no password."""
    redis.ask("CONFIG", "SET", "requirepass", "secret")
    before = redis.ask_as("secret", "INFO", "commandstats")
    async with forwarding(redis, identity) as port:
        store = make_tls_store(port)
        async with running(store, waits=False):
            await until(lambda: len(list_refusals(errors)) == 2)
            assert not store.is_up
    after = redis.ask_as("secret", "INFO", "commandstats")
    # The one is from the call of ask_as.
    assert count_logins(after) - count_logins(before) == 1


def list_refusals(errors: list[str]) -> list[str]:
    return [error for error in errors if "Redis cannot be used" in error]


def count_logins(stats: bytes) -> int:
    return int(stats.partition(b"cmdstat_auth:calls=")[2].partition(b",")[0] or 0)


@asynccontextmanager
async def watching(master: RedisServer, number: int) -> AsyncIterator[list[int]]:
    """Run sentinels that watch a master; yield their ports."""
    with tempfile.TemporaryDirectory() as folder:
        sentinels = []
        for turn in range(number):
            file = Path(folder) / f"sentinel-{turn}.conf"
            file.write_text(
                f"sentinel monitor main 127.0.0.1 {master.port} 1\n"
                "sentinel down-after-milliseconds main 300\n"
                "sentinel failover-timeout main 2000\n"
            )
            sentinels.append(Sentinel(file))
        try:
            yield [sentinel.server.port for sentinel in sentinels]
        finally:
            for sentinel in sentinels:
                sentinel.process.kill()
                sentinel.process.wait()


class Sentinel:
    """A sentinel process."""

    def __init__(self, file: Path) -> None:
        self.server = RedisServer()
        with file.open("a") as config:
            config.write(f"port {self.server.port}\nbind 127.0.0.1\ndir {file.parent}\n")
        self.process = subprocess.Popen(
            [find_server(), str(file), "--sentinel"], stdout=subprocess.DEVNULL
        )
        wait_until_served(self.process, self.server.port)


@pytest_twisted.ensureDeferred
async def test_master_of_the_sentinel_is_used_and_then_the_next_one(redis: RedisServer) -> None:
    """The present master is used, and the next one when that has died."""
    with RedisServer() as replica:
        redis.ask("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        replica.ask("REPLICAOF", "127.0.0.1", str(redis.port))
        await until(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"))
        async with watching(redis, 1) as (port,):
            unused = ("127.0.0.1", 1)
            address = RedisAddress((unused, ("127.0.0.1", port)), service="main")
            store = make_redis_store(address, NODE)
            await until(lambda: b"slaves=1" in exchange(port, [("INFO", "sentinel")]))
            async with running(store) as listener:
                await store.put_note(JOB_ID, b"kept")
                await until(lambda: replica.ask("EXISTS", f"jobproxy:note:{JOB_ID}") == b":1\r\n")
                redis.stop()
                await until(lambda: not store.is_up)
                await until(lambda: store.is_up)
                assert listener.caught_up == 2
                assert await store.collect_job(JOB_ID) == (None, b"kept")
                assert b"role:master" in replica.ask("INFO", "replication")


@pytest_twisted.ensureDeferred
async def test_error_names_the_sentinels_and_their_faults(
    redis: RedisServer, errors: list[str]
) -> None:
    """The error names the sentinels that were asked, and what was wrong with each."""
    address = RedisAddress((("127.0.0.1", 1), ("127.0.0.1", redis.port)), service="main")
    store = make_redis_store(address, NODE)
    open_store(store)
    await until(lambda: len(errors) == 2)
    await store.close()
    await until_closed()
    assert "no sentinel knows the master main (127.0.0.1:1: " in errors[0]
    assert f"127.0.0.1:{redis.port}: " in errors[0]
