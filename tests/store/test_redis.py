"""The store that is a Redis: lost connections, lost data, and who may use it."""

from collections.abc import Iterator
from typing import Any, cast

import pytest
import pytest_twisted
from attrs import define, evolve, field
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.protocols.portforward import ProxyFactory, ProxyServer

from jobproxy.store.interface import Claim, Message, MessageKind, StoreUnreachable
from jobproxy.store.orphans import START
from tests.support.reactor import reactor
from tests.support.redis_server import RedisServer
from tests.support.stores import SHORT_TIMES, listener_of, make_redis_store, refuses, running, until
from tests.support.waiting import DEADLINE

NODE, OTHER = "node-one", "node-two"
JOB_ID = f"AABrBmZl{NODE}rTQRFiGvvQ8WOrjqiMeQIQ"
CLAIM = Claim(JOB_ID, b"request")


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
    """A path to Redis that can be cut without a word to either end."""

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
        """Let the present connections receive nothing any more."""
        for server in self._factory.servers:
            server.peer.transport.pauseProducing()


@pytest_twisted.ensureDeferred
async def test_node_catches_up_each_time_it_subscribes(redis: RedisServer) -> None:
    """X2: a node has joined once it has caught up, and catches up each time it subscribes."""
    store = make_redis_store(redis.url, NODE)
    assert not store.is_joined
    async with running(store) as listener:
        assert store.is_joined
        assert listener.caught_up == 1
        redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await until(lambda: listener.caught_up == 2)
        assert store.is_joined


@pytest_twisted.ensureDeferred
async def test_subscription_that_receives_nothing_is_made_again(
    redis: RedisServer, errors: list[str]
) -> None:
    """X2: a subscription that receives nothing any more is detected, and made again."""
    async with Cable(redis) as cable:
        store = make_redis_store(cable.url, NODE)
        async with running(store) as listener:
            cable.cut()
            await until(lambda: listener.caught_up == 2)
            assert await store.send(NODE, Message(MessageKind.GONE, JOB_ID, OTHER))
            await until(lambda: listener.messages)
    assert len(errors) <= 2


@pytest_twisted.ensureDeferred
async def test_request_to_a_redis_that_hangs_fails_in_time(redis: RedisServer) -> None:
    """X1: a request to a Redis that hangs fails in bounded time, and all later ones at once."""
    store = make_redis_store(redis.url, NODE)
    async with running(store):
        redis.hang()
        assert await refuses(store.find_claim(b"key"), StoreUnreachable)
        assert not store.is_up
        begun = store.calls["failed"]
        for _ in range(100):
            assert await refuses(store.find_claim(b"key"), StoreUnreachable)
        assert store.calls["failed"] == begun + 100
        redis.go_on()
        await until(lambda: store.is_up)
        assert await store.find_claim(b"key") is None


@pytest_twisted.ensureDeferred
async def test_forgotten_scripts_are_sent_again(redis: RedisServer) -> None:
    """Scripts that Redis has forgotten are sent again."""
    store = make_redis_store(redis.url, NODE)
    async with running(store):
        for _ in range(2):
            assert await store.send(NODE, Message(MessageKind.GONE, JOB_ID, OTHER))
            redis.ask("SCRIPT", "FLUSH")


@pytest_twisted.ensureDeferred
async def test_empty_redis_grants_no_claim_until_nodes_have_claimed_again(
    redis: RedisServer,
) -> None:
    """X1: an empty Redis grants no new claim until all nodes have claimed again."""
    times = evolve(SHORT_TIMES, settle=3.0)
    one, other = (make_redis_store(redis.url, node, times=times) for node in (NODE, OTHER))
    async with running(one, other) as listener:
        redis.stop()
        await until(lambda: not one.is_up and not other.is_up)
        redis.start()
        await until(lambda: one.is_up and other.is_up)
        claiming = other.claim(b"key", Claim(JOB_ID[::-1], b"other"))
        assert await one.find_claim(b"key") is None
        await one.put_claims_again([(b"key", CLAIM)])
        assert await claiming == CLAIM
        assert await other.claim(b"new", CLAIM) == CLAIM
        assert listener.caught_up == 2


@pytest_twisted.ensureDeferred
async def test_claim_waits_no_longer_than_the_settle_time(redis: RedisServer) -> None:
    """X1: a claim waits no longer than the settle time, and not at all if it is known."""
    redis.ask("FLUSHALL")
    store = make_redis_store(redis.url, NODE, times=evolve(SHORT_TIMES, settle=3.0))
    async with running(store):
        await store.put_claims_again([(b"known", CLAIM)])
        waiting = store.claim(b"new", CLAIM)
        assert await store.claim(b"known", Claim(JOB_ID[::-1], b"")) == CLAIM
        assert not waiting.called
        assert await waiting == CLAIM


@pytest_twisted.ensureDeferred
async def test_redis_that_is_emptied_while_connected_is_caught_up_by_every_node(
    redis: RedisServer, errors: list[str]
) -> None:
    """X6: when Redis is emptied while nodes are connected, each of them catches up.

    Also if a new claim is the first that Redis gets, and until a node has succeeded.
    """
    stores = [make_redis_store(redis.url, node) for node in (NODE, OTHER)]
    async with running(*stores):
        one, other = (listener_of(store) for store in stores)
        one.is_cut_off = True
        redis.ask("FLUSHALL")
        await stores[0].claim(b"key", CLAIM)
        await until(lambda: one.caught_up >= 4 and other.caught_up >= 2)
        one.is_cut_off = False
        tried = one.caught_up
        await until(lambda: one.caught_up > tried)
        assert other.caught_up == 2
        assert await stores[1].list_nodes() == sorted([NODE, OTHER])
    assert set(errors) == {"Redis has lost its data; writing it again"}


@pytest_twisted.ensureDeferred
async def test_wrong_password_is_logged_once_and_tried_until_it_is_right(
    redis: RedisServer, errors: list[str]
) -> None:
    """A wrong password is logged once, never shown, and tried until it is right."""
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
async def test_user_with_the_documented_rights_can_do_everything(redis: RedisServer) -> None:
    """A user with no more rights than the documentation says can do all that is needed."""
    rules = ["on", ">secret", "resetkeys", "~jobproxy:*", "resetchannels", "&jobproxy:*", "-@all"]
    commands = (
        "auth select role ping get set del exists strlen setrange pexpire publish subscribe "
        "unsubscribe eval evalsha time zadd zrem zcard zscore zrange zrangebyscore "
        "zremrangebyscore pttl"
    )
    rules += [f"+{command}" for command in commands.split()]
    redis.ask("ACL", "SETUSER", "jobproxy", *rules)
    store = make_redis_store(f"redis://jobproxy:secret@127.0.0.1:{redis.port}", NODE)
    async with running(store) as listener:
        await store.claim(b"key", CLAIM)
        await store.put_result(JOB_ID, b"{}", [NODE], key_digest=b"key")
        await store.put_result("other", b"{}", [], is_orphan=True)
        await until(lambda: listener.messages)
        assert len(await store.list_orphans(9, START)) == 1
        await store.confirm(JOB_ID, key_digest=b"key")
        await store.discard_result("other")
        await store.acquire_slot("a", f"{NODE}:1", 1, 1)
        await store.release_slot("a", f"{NODE}:1")
        await store.pause_account("a", 1)
        await store.release_claim(b"key", CLAIM)
        await store.put_note(JOB_ID, b"")
        await store.collect_job(JOB_ID)
        await store.put_claims_again([(b"key", CLAIM)])
    assert store.calls["failed"] == 0


@pytest_twisted.ensureDeferred
async def test_replica_is_not_used_until_it_is_a_master(
    redis: RedisServer, errors: list[str]
) -> None:
    """A replica accepts no writes, so that it is not used until it is a master."""
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
async def test_databases_of_one_redis_are_separate(redis: RedisServer) -> None:
    """Clusters in two databases of one Redis know nothing of each other."""
    one = make_redis_store(redis.url, NODE)
    other = make_redis_store(f"redis://127.0.0.1:{redis.port}/1", NODE)
    async with running(one, other) as listener:
        await other.put_claims_again([(b"key", CLAIM)])
        assert await one.find_claim(b"key") is None
        await other.put_result(JOB_ID, b"{}", [OTHER])
        await other.send(NODE, Message(MessageKind.GONE, JOB_ID, OTHER))
        await until(lambda: len(listener_of(other).messages) == 2)
        assert listener.messages == []


@pytest_twisted.ensureDeferred
async def test_unknown_message_and_failing_listener_stop_nothing(
    redis: RedisServer, errors: list[str]
) -> None:
    """Unknown messages are ignored, and a node whose listener fails still receives."""
    store = make_redis_store(redis.url, NODE)
    async with running(store) as listener:
        channel = f"jobproxy:0:node:{NODE}"
        for text in ("", "{}", '["new-kind","x","y"]\n', "[1,2]\n", "[]"):
            redis.ask("PUBLISH", channel, text)
        listener.fails = True
        redis.ask("PUBLISH", "jobproxy:0:all", f'["gone","{JOB_ID}","{OTHER}"]\n')
        await until(lambda: listener.messages)
        listener.fails = False
        redis.ask("PUBLISH", channel, f'["gone","{JOB_ID}","{OTHER}"]\nbody')
        await until(lambda: len(listener.messages) == 2)
        assert listener.messages[1] == Message(MessageKind.GONE, JOB_ID, OTHER, b"body")
        assert listener.caught_up == 1
    (error,) = errors
    assert JOB_ID in error


@pytest_twisted.ensureDeferred
async def test_clock_of_redis_that_was_ahead_does_not_block_claims(redis: RedisServer) -> None:
    """X11: if the clock is put right after Redis got its first data, claims are granted soon."""
    redis.ask("SET", "jobproxy:epoch", str(4 * 10**12))
    store = make_redis_store(redis.url, NODE)
    async with running(store):
        claiming = store.claim(b"key", CLAIM).addTimeout(DEADLINE, reactor)
        assert await claiming == CLAIM
