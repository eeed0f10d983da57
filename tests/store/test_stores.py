"""What each store promises: the one in memory, one in a file, and a real Redis."""

from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import pytest_twisted
from attrs import evolve
from twisted.internet.task import deferLater
from zope.interface.verify import verifyObject

from jobproxy.store.interface import (
    Claim,
    IStore,
    Message,
    MessageKind,
    Placement,
    StoreUnreachable,
)
from jobproxy.store.orphans import START
from tests.support.reactor import reactor
from tests.support.redis_server import RedisServer
from tests.support.stores import Cluster, listener_of, open_store, refuses, run_stores, until

ONE, OTHER, THIRD = "node-one", "node-two", "node-3rd"
JOB_ID = f"AABrBmZl{ONE}rTQRFiGvvQ8WOrjqiMeQIQ"
BODY = b'{ "id":"1", "state":"completed", "odd":"\xc3\xa9\\r\\n" }\r\n'
KEY_DIGEST = b"\x00\r\n*3\xff"
MINE = Claim(JOB_ID, b"\x00request\r\n\xff")
YOURS = Claim(JOB_ID[::-1], b"another")


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(kind: str, redis: RedisServer) -> Any:
    """Return a function that runs the stores of three nodes; in a file, one node thrice."""

    def run(retain: float = 60.0, key_life: float = 60.0) -> AbstractAsyncContextManager[Cluster]:
        return run_stores(kind, (ONE, OTHER, THIRD), retain, redis, key_life)

    return run


@pytest.fixture(params=["memory", "redis"])
def run_several(request: pytest.FixtureRequest, redis: RedisServer) -> Any:
    """Return a function that runs the stores of three nodes that are not the same."""

    def run(retain: float = 60.0) -> AbstractAsyncContextManager[Cluster]:
        return run_stores(str(request.param), (ONE, OTHER, THIRD), retain, redis, 60.0)

    return run


@pytest_twisted.ensureDeferred
async def test_store_provides_the_interface(run: Any) -> None:
    """Each store has everything that the interface names."""
    async with run() as cluster:
        verifyObject(IStore, cluster.stores[0])
        nodes = await cluster.stores[0].list_nodes()
        assert nodes == sorted([ONE, OTHER, THIRD][: len(set(cluster.stores))])


@pytest_twisted.ensureDeferred
async def test_first_claim_of_a_key_digest_counts(run: Any) -> None:
    """The first claim of a key digest counts, and others get that claim."""
    async with run() as cluster:
        one, other, _ = cluster.stores
        assert await other.find_claim(KEY_DIGEST) is None
        claims = [
            one.claim(KEY_DIGEST, MINE),
            other.claim(KEY_DIGEST, YOURS),
            one.claim(KEY_DIGEST, MINE),
        ]
        found = [await claim for claim in claims]
        assert found[0] == found[1] == found[2]
        assert found[0] in {MINE, YOURS}
        assert await other.find_claim(KEY_DIGEST) == found[0]
        assert await other.claim(b"another", YOURS) == YOURS


@pytest_twisted.ensureDeferred
async def test_claim_is_released_only_by_itself(run: Any) -> None:
    """A claim is released by the same claim, and by no other."""
    async with run() as cluster:
        one, other, _ = cluster.stores
        await one.claim(KEY_DIGEST, MINE)
        await other.release_claim(KEY_DIGEST, YOURS)
        assert await other.find_claim(KEY_DIGEST) == MINE
        await other.release_claim(KEY_DIGEST, MINE)
        assert await one.find_claim(KEY_DIGEST) is None
        assert await one.claim(KEY_DIGEST, YOURS) == YOURS


@pytest_twisted.ensureDeferred
async def test_reclaim_leaves_the_claims_of_others(run: Any) -> None:
    """A claim is made again, unless there is another one now."""
    async with run() as cluster:
        one, other, _ = cluster.stores
        await other.claim(b"theirs", YOURS)
        await one.put_claims_again([(KEY_DIGEST, MINE), (b"theirs", MINE)])
        assert await other.find_claim(KEY_DIGEST) == MINE
        assert await other.find_claim(b"theirs") == YOURS


@pytest_twisted.ensureDeferred
async def test_claim_outlives_its_result_and_is_not_released(run: Any) -> None:
    """L8: the claim of a job that has ended outlives its result, and nobody releases it."""
    async with run(retain=0.2) as cluster:
        one, other, _ = cluster.stores
        for key_digest in (KEY_DIGEST, b"confirmed"):
            await one.claim(key_digest, MINE)
        await one.claim(b"going on", YOURS)
        await one.put_result(JOB_ID, BODY, [], key_digest=KEY_DIGEST, is_orphan=False)
        await one.confirm(JOB_ID, key_digest=b"confirmed")
        await deferLater(reactor, 0.3)
        assert await other.collect_job(JOB_ID) == (None, None)
        for key_digest in (KEY_DIGEST, b"confirmed"):
            await one.release_claim(key_digest, MINE)
        await one.release_claim(b"going on", YOURS)
        ended = evolve(MINE, has_ended=True)
        assert await other.find_claim(KEY_DIGEST) == ended
        assert await other.find_claim(b"confirmed") == ended
        assert await other.find_claim(b"going on") is None
        assert await other.claim(KEY_DIGEST, YOURS) == ended
        await other.put_claims_again([(b"again", ended)])
        assert await one.find_claim(b"again") == ended


@pytest_twisted.ensureDeferred
async def test_claim_ends_with_a_result_that_another_node_received(run: Any) -> None:
    """L8: a node that has a callback but not the key ends the claim: its owner may be dead."""
    ended = evolve(MINE, has_ended=True)
    async with run(retain=0.2) as cluster:
        one, other, _ = cluster.stores
        await one.claim(KEY_DIGEST, MINE)
        await one.put_claims_again([(b"again", YOURS)])
        for job_id in (MINE.job_id, YOURS.job_id):
            await other.put_result(job_id, BODY, ["dead-node"])
        await deferLater(reactor, 0.3)
        assert await other.collect_job(JOB_ID) == (None, None)
        assert await other.find_claim(KEY_DIGEST) == ended
        assert await other.find_claim(b"again") == evolve(YOURS, has_ended=True)


@pytest_twisted.ensureDeferred
async def test_result_leaves_the_claim_of_another_job(run: Any) -> None:
    """L8: a key that was released and claimed for another job does not end with the first one."""
    async with run() as cluster:
        one, other, _ = cluster.stores
        await one.claim(KEY_DIGEST, MINE)
        await one.release_claim(KEY_DIGEST, MINE)
        await one.claim(KEY_DIGEST, YOURS)
        await other.put_result(JOB_ID, BODY, ["dead-node"])
        assert await one.find_claim(KEY_DIGEST) == YOURS


@pytest_twisted.ensureDeferred
async def test_claim_expires_at_the_end_of_its_key(run: Any) -> None:
    """A claim is kept as long as the key lives."""
    async with run(key_life=0.2) as cluster:
        one, other, _ = cluster.stores
        await one.claim(KEY_DIGEST, MINE)
        await one.put_result(JOB_ID, BODY, [], key_digest=KEY_DIGEST, is_orphan=False)
        await deferLater(reactor, 0.3)
        assert await other.find_claim(KEY_DIGEST) is None


@pytest_twisted.ensureDeferred
async def test_result_that_a_node_did_not_confirm_becomes_an_orphan(run_several: Any) -> None:
    """B17: a result that a node did not confirm before it died becomes an orphan."""
    async with run_several() as cluster:
        one, other, third = cluster.stores
        for number in range(3):
            body = b'{"id":"%d"}' % number
            job_id = f"job-{number}"
            placed = await one.put_result(job_id, body, [OTHER], upstream_id=f"{number}")
            assert placed is Placement.TAKEN
        await until(lambda: len(cluster.listeners[1].messages) == 3)
        await other.confirm("job-0")
        await other.confirm("job-1", is_collected=True)
        assert await list_orphans(third) == []
        await other.close()
        await until_gone(one, OTHER)
        (orphan,) = await third.list_orphans(10, START)
        assert (orphan.job_id, orphan.upstream_id, orphan.size) == ("job-2", "2", 10)
        open_store(other)
        await until(lambda: other.is_up)
        await other.confirm("job-2", is_collected=True)
        assert await list_orphans(third) == []


@pytest_twisted.ensureDeferred
async def test_result_removes_the_note_of_its_job(run: Any) -> None:
    """X5: a note ends with the result of its job, and none is made after that."""
    async with run(retain=0.2) as cluster:
        one, other, _ = cluster.stores
        await one.put_note(JOB_ID, b"ack")
        await one.put_result(JOB_ID, BODY, [], is_orphan=False)
        await one.put_note(JOB_ID, b"ack")
        assert await other.collect_job(JOB_ID) == (BODY, None)
        await deferLater(reactor, 0.3)
        assert await other.collect_job(JOB_ID) == (None, None)


@pytest_twisted.ensureDeferred
async def test_result_is_sent_to_its_node_alone(run_several: Any) -> None:
    """B15: a result is sent to the node that has the job, and to no other."""
    async with run_several() as cluster:
        _, other, _ = cluster.stores
        assert await other.put_result(JOB_ID, BODY, [ONE]) is Placement.TAKEN
        await until(lambda: cluster.listeners[0].messages)
        assert cluster.listeners[0].messages == [Message(MessageKind.RESULT, JOB_ID, OTHER, BODY)]
        assert await other.put_result(JOB_ID, BODY, [ONE]) is Placement.DUPLICATE
        assert await other.put_result(JOB_ID, b"{}", [ONE]) is Placement.CONFLICT
        assert await other.collect_results([JOB_ID, "x"]) == [BODY, None]
        assert await list_orphans(other) == []
        assert cluster.listeners[1].messages == cluster.listeners[2].messages == []
        assert b"{}" not in [message.body for message in cluster.listeners[0].messages]


@pytest_twisted.ensureDeferred
async def test_result_for_a_dead_node_is_an_orphan_and_sent_to_all(run: Any) -> None:
    """B15: the result of a dead node's job is an orphan, and is sent to all other nodes."""
    async with run() as cluster:
        one, other, third = cluster.stores
        placed = await other.put_result(JOB_ID, BODY, ["gone-now"], upstream_id="1")
        assert placed is Placement.ORPHANED
        await until(lambda: all(listener.messages for listener in cluster.listeners))
        for listener in cluster.listeners:
            (message,) = listener.messages
            assert (message.kind, message.job_id) == (MessageKind.RESULT, JOB_ID)
            assert message.body == BODY
        (orphan,) = await third.list_orphans(10, START)
        assert (orphan.job_id, orphan.upstream_id, orphan.size) == (JOB_ID, "1", len(BODY))
        assert 0 <= orphan.age < 10
        assert await one.find_orphan(JOB_ID) == BODY
        assert await one.find_orphan("x") is None
        assert await one.collect_job(JOB_ID) == (BODY, None)
        # An orphan that was collected is none any more.
        assert await list_orphans(third) == []
        assert await one.find_orphan(JOB_ID) is None
        assert await other.put_result(JOB_ID, BODY, ["gone-now"]) is Placement.DUPLICATE
        assert await list_orphans(third) == []


@pytest_twisted.ensureDeferred
async def test_orphans_are_listed_until_they_are_fetched_or_discarded(run: Any) -> None:
    """X4: orphans are listed in pages, the oldest first, until they are fetched or discarded."""
    async with run() as cluster:
        one, other, _ = cluster.stores
        for number in range(3):
            await one.put_result(f"{number}", b'{"id":"%d"}' % number, [], is_orphan=True)
            await deferLater(reactor, 0.005)
        await one.put_result("kept", BODY, [], is_orphan=False)
        assert await list_orphans(other) == ["0", "1", "2"]
        assert await other.count_orphans() == 3
        first = await other.list_orphans(2, START)
        assert [orphan.job_id for orphan in first] == ["0", "1"]
        assert [found.job_id for found in await other.list_orphans(2, first[1].position)] == ["2"]
        await other.collect_results(["0"])
        await other.discard_result("1")
        assert await list_orphans(one) == ["2"]
        assert await one.count_orphans() == 1
        assert await one.collect_results(["0", "1", "2"]) == [b'{"id":"0"}', None, b'{"id":"2"}']


@pytest_twisted.ensureDeferred
async def test_orphan_expires_like_any_result(run: Any) -> None:
    """An orphan is kept as long as any result."""
    async with run(retain=0.1) as cluster:
        await cluster.stores[0].put_result(JOB_ID, BODY, [], is_orphan=True)
        assert await list_orphans(cluster.stores[1]) == [JOB_ID]
        await deferLater(reactor, 0.2)
        assert await cluster.stores[1].count_orphans() == 0
        assert await list_orphans(cluster.stores[1]) == []
        assert await cluster.stores[1].find_orphan(JOB_ID) is None


@pytest_twisted.ensureDeferred
async def test_body_comes_back_byte_for_byte(run: Any) -> None:
    """Any body comes back byte for byte."""
    async with run() as cluster:
        one, other, _ = cluster.stores
        bodies = [b"{}", b"007", b"-1.50", b"\x00\xff\r\n$5\r\n", b'"OK"', b"QUEUED", b"x" * 60_000]
        for number, body in enumerate(bodies):
            await one.put_note(f"job-{number}", body)
            assert await other.collect_job(f"job-{number}") == (None, body)
            await one.put_result(f"job-{number}", body, [OTHER])
            assert await other.collect_job(f"job-{number}") == (body, None)
        await until(lambda: len(cluster.listeners[1].messages) == len(bodies))
        assert [message.body for message in cluster.listeners[1].messages] == bodies


@pytest_twisted.ensureDeferred
async def test_note_is_found_by_every_node(run: Any) -> None:
    """A note about a job is found by every node."""
    async with run() as cluster:
        one, other, _ = cluster.stores
        await one.put_note(JOB_ID, b"")
        assert await other.collect_job(JOB_ID) == (None, b"")
        await one.put_note(JOB_ID, b"ack")
        assert await other.collect_job(JOB_ID) == (None, b"ack")
        assert await other.collect_job("x") == (None, None)


@pytest_twisted.ensureDeferred
async def test_message_reaches_its_node_and_its_sender_learns_whether_it_lives(
    run_several: Any,
) -> None:
    """A message reaches its node, and its sender gets whether that node lives."""
    async with run_several() as cluster:
        one, other, _ = cluster.stores
        message = Message(MessageKind.STATE, JOB_ID, ONE, BODY)
        assert await one.send(OTHER, message) is True
        assert await one.send("gone-now", message) is False
        await until(lambda: cluster.listeners[1].messages)
        assert cluster.listeners[1].messages == [message]
        assert listener_of(other) is not listener_of(one)


@pytest_twisted.ensureDeferred
async def test_closed_node_is_gone_at_once(run_several: Any) -> None:
    """A node that closes its store is not listed any more, before its lease ends."""
    async with run_several() as cluster:
        one, other, _ = cluster.stores
        await other.close()
        await until_gone(one, OTHER)
        assert await one.send(OTHER, Message(MessageKind.GONE, JOB_ID, ONE)) is False
        assert await one.put_result(JOB_ID, BODY, [OTHER]) is Placement.ORPHANED
        open_store(other)
        await until(lambda: other.is_up)
        assert listener_of(other).caught_up == 1


async def list_orphans(store: Any) -> list[str]:
    """Return the job ids of the orphans."""
    return [orphan.job_id for orphan in await store.list_orphans(100, START)]


async def until_gone(store: Any, node: str) -> None:
    while node in await store.list_nodes():
        await deferLater(reactor, 0.01)


@pytest_twisted.ensureDeferred
async def test_slots_are_counted_over_all_nodes(run_several: Any) -> None:
    """An account has so many slots over all nodes, each of which is free again in the end."""
    async with run_several() as cluster:
        one, other, _ = cluster.stores
        assert (await one.acquire_slot("a", f"{ONE}:1", 2, 60)).is_granted
        assert (await other.acquire_slot("a", f"{OTHER}:1", 2, 60)).is_granted
        assert not (await one.acquire_slot("a", f"{ONE}:2", 2, 60)).is_granted
        assert (await other.acquire_slot("b", f"{OTHER}:2", 1, 60)).is_granted
        for _ in range(2):
            await one.release_slot("a", f"{ONE}:1")
        assert (await other.acquire_slot("a", f"{OTHER}:3", 2, 0.05)).is_granted
        assert not (await one.acquire_slot("a", f"{ONE}:3", 2, 60)).is_granted
        await deferLater(reactor, 0.1)
        assert (await one.acquire_slot("a", f"{ONE}:4", 2, 60)).is_granted


@pytest_twisted.ensureDeferred
async def test_slots_of_dead_nodes_do_not_count(run_several: Any) -> None:
    """X9: the slots of a node are free once it is not alive any more."""
    async with run_several() as cluster:
        one, other, _ = cluster.stores
        assert (await other.acquire_slot("a", f"{OTHER}:1", 1, 60)).is_granted
        assert not (await one.acquire_slot("a", f"{ONE}:1", 1, 60)).is_granted
        await other.close()
        await until_gone(one, OTHER)
        assert (await one.acquire_slot("a", f"{ONE}:2", 1, 60)).is_granted
        open_store(other)
        await until(lambda: other.is_up)


@pytest_twisted.ensureDeferred
async def test_paused_account_gets_no_slot_at_any_node(run_several: Any) -> None:
    """X10: a pause of an account holds for all nodes, and is never shortened."""
    async with run_several() as cluster:
        one, other, _ = cluster.stores
        await one.pause_account("a", 0.3)
        await one.pause_account("a", 0.01)
        refused = await other.acquire_slot("a", f"{OTHER}:1", 1, 60)
        assert not refused.is_granted
        assert 0.01 < refused.paused <= 0.3
        assert (await other.acquire_slot("b", f"{OTHER}:2", 1, 60)).is_granted
        await deferLater(reactor, refused.paused + 0.01)
        assert (await other.acquire_slot("a", f"{OTHER}:3", 1, 60)).is_granted


@pytest_twisted.ensureDeferred
async def test_request_to_a_store_that_is_away_fails(run: Any, kind: str) -> None:
    """X1: every request to a store that is away fails, and it says that it is away."""
    async with run() as cluster:
        one = cluster.stores[0]
        await cluster.lose_store()
        message = Message(MessageKind.GONE, JOB_ID, ONE)
        for asking in (
            lambda: one.claim(KEY_DIGEST, MINE),
            lambda: one.put_claims_again([(KEY_DIGEST, MINE)]),
            lambda: one.release_claim(KEY_DIGEST, MINE),
            lambda: one.confirm(JOB_ID),
            lambda: one.find_claim(KEY_DIGEST),
            lambda: one.put_result(JOB_ID, BODY, [OTHER]),
            lambda: one.put_note(JOB_ID, b""),
            lambda: one.collect_results([JOB_ID]),
            lambda: one.collect_job(JOB_ID),
            lambda: one.discard_result(JOB_ID),
            lambda: one.send(OTHER, message),
            lambda: one.list_orphans(1, START),
            one.count_orphans,
            lambda: one.find_orphan(JOB_ID),
            one.list_nodes,
        ):
            before = one.calls["failed"]
            assert await refuses(asking(), StoreUnreachable)
            assert one.calls["failed"] == before + 1
        assert not one.is_up
        assert one.is_joined
    if kind == "redis":
        assert cluster.redis is not None
        cluster.redis.start()


@pytest_twisted.ensureDeferred
async def test_slots_of_a_store_that_is_away_cannot_be_asked_for(run_several: Any) -> None:
    """X1: the same holds for the slots."""
    async with run_several() as cluster:
        one = cluster.stores[0]
        await cluster.lose_store()
        for asking in (
            lambda: one.acquire_slot("a", "x:1", 1, 60),
            lambda: one.release_slot("a", "x:1"),
            lambda: one.pause_account("a", 1),
        ):
            assert await refuses(asking(), StoreUnreachable)
    if cluster.redis is not None:
        cluster.redis.start()
