"""What only a store that is a Redis has to bear: lost connections, lost memory, and strangers."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.protocols.portforward import ProxyFactory, ProxyServer

from jobproxy.store.interface import Claim, Message, MessageKind, StoreUnreachable
from tests.support.reactor import reactor
from tests.support.redis_server import RedisServer
from tests.support.stores import ear_of, make_redis_store, refuses, running, until

NODE, OTHER = "node-one", "node-two"
JOB_ID = f"AABrBmZl{NODE}rTQRFiGvvQ8WOrjqiMeQIQ"
CLAIM = Claim(JOB_ID, b"fingerprint")


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        server.ask("SET", "jobproxy:epoch", "1")
        yield server


class Server(ProxyServer):
    factory: Any

    def connectionMade(self) -> None:
        super().connectionMade()
        self.factory.servers.append(self)


@define(eq=False)
class Cable:
    """A way to Redis that can be cut without either end noticing."""

    redis: RedisServer
    port: int = field(default=0, init=False)
    _listening: Any = field(default=None, init=False)
    _factory: Any = field(default=None, init=False)

    async def __aenter__(self) -> "Cable":
        factory = cast(Any, ProxyFactory("127.0.0.1", self.redis.port))
        factory.protocol, factory.servers, factory.noisy = Server, [], False
        self._factory = factory
        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self._listening = await endpoint.listen(factory)
        self.port = self._listening.getHost().port
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._listening.stopListening()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Have nothing come back any more on the connections that there are."""
        for server in self._factory.servers:
            server.peer.transport.pauseProducing()


@pytest_twisted.ensureDeferred
async def test_catches_up(redis: RedisServer) -> None:
    """X2: a node is one of them once it has asked for what it missed, each time that it is back."""
    store = make_redis_store(redis.url, NODE)
    assert not store.is_joined
    async with running(store) as ear:
        assert store.is_joined
        assert ear.caught_up == 1
        redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: ear.caught_up == 2)
        assert store.is_joined


@pytest_twisted.ensureDeferred
async def test_half_open(redis: RedisServer, errors: list[str]) -> None:
    """X2: a subscription on which nothing comes any more is noticed, and made again."""
    async with Cable(redis) as cable:
        store = make_redis_store(cable.url, NODE)
        async with running(store) as ear:
            cable.cut()
            await until(lambda: ear.caught_up == 2)
            assert await store.send(NODE, Message(MessageKind.NO_RESULT, JOB_ID, OTHER))
            await until(lambda: ear.messages)
    assert len(errors) <= 2


@pytest_twisted.ensureDeferred
async def test_hangs(redis: RedisServer) -> None:
    """X1: who asks a Redis that hangs is told so in bounded time, and then at once."""
    store = make_redis_store(redis.url, NODE)
    async with running(store):
        redis.hang()
        assert await refuses(store.find_claim(b"alias"), StoreUnreachable)
        assert not store.is_up
        begun = store.calls["failed"]
        for _ in range(100):
            assert await refuses(store.find_claim(b"alias"), StoreUnreachable)
        assert store.calls["failed"] == begun + 100
        redis.go_on()
        await until(lambda: store.is_up)
        assert await store.find_claim(b"alias") is None


@pytest_twisted.ensureDeferred
async def test_forgets_scripts(redis: RedisServer) -> None:
    """A Redis that has forgotten our scripts is given them again."""
    store = make_redis_store(redis.url, NODE)
    async with running(store):
        for _ in range(2):
            assert await store.send(NODE, Message(MessageKind.NO_RESULT, JOB_ID, OTHER))
            redis.ask("SCRIPT", "FLUSH")


@pytest_twisted.ensureDeferred
async def test_started_anew(redis: RedisServer) -> None:
    """X1: a Redis that knows nothing gives nobody a claim until all have said what they know."""
    one, other = (make_redis_store(redis.url, node) for node in (NODE, OTHER))
    async with running(one, other) as ear:
        redis.stop()
        await until(lambda: not one.is_up and not other.is_up)
        redis.start()
        await until(lambda: one.is_up and other.is_up)
        claiming = other.claim(b"alias", Claim(JOB_ID[::-1], b"other"))
        assert await one.find_claim(b"alias") is None
        await one.put_claims_again([(b"alias", CLAIM)])
        assert await claiming == CLAIM
        assert await other.claim(b"new", CLAIM) == CLAIM
        assert ear.caught_up == 2


@pytest_twisted.ensureDeferred
async def test_settles(redis: RedisServer) -> None:
    """X1: nobody has to wait for longer than it takes to settle, nor at all if it is claimed."""
    redis.ask("FLUSHALL")
    store = make_redis_store(redis.url, NODE)
    async with running(store):
        await store.put_claims_again([(b"known", CLAIM)])
        waiting = store.claim(b"new", CLAIM)
        assert await store.claim(b"known", Claim(JOB_ID[::-1], b"")) == CLAIM
        assert not waiting.called
        assert await waiting == CLAIM


@pytest_twisted.ensureDeferred
async def test_emptied(redis: RedisServer, errors: list[str]) -> None:
    """X2: a Redis that is emptied while we are connected is told again too."""
    store = make_redis_store(redis.url, NODE)
    async with running(store) as ear:
        redis.ask("FLUSHALL")
        await until(lambda: ear.caught_up == 2)
        assert await store.list_nodes() == [NODE]
    assert errors == ["Redis has lost its data; writing it again"]


@pytest_twisted.ensureDeferred
async def test_wrong_password(redis: RedisServer, errors: list[str]) -> None:
    """A password that is wrong is told once, and tried again until it is right."""
    store = make_redis_store(f"redis://:s3cret%2F@127.0.0.1:{redis.port}/3", NODE)
    redis.ask("CONFIG", "SET", "requirepass", "other")
    async with running(store, waits=False):
        await until(lambda: errors)
        await deferLater(reactor, 0.3)
        assert not store.is_up
        redis.ask_as("other", "CONFIG", "SET", "requirepass", "s3cret/")
        await until(lambda: store.is_up)
        await store.put_note(JOB_ID, b"ack")
    assert len(errors) == 2, errors
    assert not any("s3cret" in error for error in errors)
    assert redis.ask_as("s3cret/", "SELECT", "3", then=("DBSIZE",)).endswith(b":2\r\n")


@pytest_twisted.ensureDeferred
async def test_user(redis: RedisServer) -> None:
    """A user with no more rights than the documents say can do all that is needed."""
    rules = ["on", ">secret", "resetkeys", "~jobproxy:*", "resetchannels", "&jobproxy:*", "-@all"]
    commands = (
        "auth select role ping get set del pexpire publish subscribe unsubscribe eval evalsha time "
        "zadd zrem zcard zscore zrange zrangebyscore zremrangebyscore"
    )
    rules += [f"+{command}" for command in commands.split()]
    redis.ask("ACL", "SETUSER", "jobproxy", *rules)
    store = make_redis_store(f"redis://jobproxy:secret@127.0.0.1:{redis.port}", NODE)
    async with running(store) as ear:
        await store.claim(b"alias", CLAIM)
        await store.put_result(JOB_ID, b"{}", [NODE], key_digest=b"alias")
        await store.put_result("other", b"{}", [], is_orphan=True)
        await until(lambda: ear.messages)
        assert len(await store.list_orphans()) == 1
        await store.discard_result("other")
        await store.acquire_slot("a", 1, 1)
        await store.release_slot("a")
        await store.release_claim(b"alias", CLAIM)
        await store.put_note(JOB_ID, b"")
        await store.collect_job(JOB_ID)
        await store.shorten_claim(b"alias", CLAIM)
        await store.put_claims_again([(b"alias", CLAIM)])
    assert store.calls["failed"] == 0


@pytest_twisted.ensureDeferred
async def test_replica(redis: RedisServer, errors: list[str]) -> None:
    """A replica takes no writes, so that it is of no use until it is a master."""
    redis.ask("REPLICAOF", "127.0.0.1", "1")
    store = make_redis_store(redis.url, NODE)
    async with running(store, waits=False):
        await until(lambda: errors)
        assert "replica" in errors[0]
        redis.ask("REPLICAOF", "NO", "ONE")
        await until(lambda: store.is_up)
        redis.ask("REPLICAOF", "127.0.0.1", "1")
        await until(lambda: not store.is_up)
        redis.ask("REPLICAOF", "NO", "ONE")
        await until(lambda: store.is_up)


@pytest_twisted.ensureDeferred
async def test_databases(redis: RedisServer) -> None:
    """Clusters in two databases of one Redis know nothing of each other."""
    one = make_redis_store(redis.url, NODE)
    other = make_redis_store(f"redis://127.0.0.1:{redis.port}/1", NODE)
    async with running(one, other) as ear:
        await other.put_claims_again([(b"alias", CLAIM)])
        assert await one.find_claim(b"alias") is None
        await other.put_result(JOB_ID, b"{}", [OTHER])
        await other.send(NODE, Message(MessageKind.NO_RESULT, JOB_ID, OTHER))
        await until(lambda: len(ear_of(other).messages) == 2)
        assert ear.messages == []


@pytest_twisted.ensureDeferred
async def test_odd_messages(redis: RedisServer, errors: list[str]) -> None:
    """What another version says is passed over, and a bug of ours does not make a node deaf."""
    store = make_redis_store(redis.url, NODE)
    async with running(store) as ear:
        channel = f"jobproxy:0:node:{NODE}"
        for text in ("", "{}", '["new-kind","x","y"]\n', "[1,2]\n", "[]"):
            redis.ask("PUBLISH", channel, text)
        ear.fails = True
        redis.ask("PUBLISH", "jobproxy:0:all", f'["gone","{JOB_ID}","{OTHER}"]\n')
        await until(lambda: ear.messages)
        ear.fails = False
        redis.ask("PUBLISH", channel, f'["gone","{JOB_ID}","{OTHER}"]\nbody')
        await until(lambda: len(ear.messages) == 2)
        assert ear.messages[1] == Message(MessageKind.NO_RESULT, JOB_ID, OTHER, b"body")
        assert ear.caught_up == 1
    (error,) = errors
    assert JOB_ID in error
