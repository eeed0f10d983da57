"""Several nodes under events in any order: what the promises say of keys has to hold.

Clients send jobs with keys to any node, and leave; the job server responds, refuses, or loses the
connection, and calls any node back until it gets 200. Nodes die, their stores go away, lose
messages or all data, and time passes. A key must never start a second job, a result that got 200
must be found, and nobody may get ``started: no`` of a job that was read.
"""

import os
from typing import Any

from attrs import define, field
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from jobproxy.wire.tokens import node_of
from tests.support.clients import Client
from tests.support.cluster import Cluster, Node
from tests.support.job_server import Start
from tests.support.proxy import DEFAULTS, result_of

#: Another job for each key.
KEYS = range(3)
NODES = st.integers(0, 2)
#: Statuses of responses to start requests that say that the job does not run.
REFUSALS = {"reject": 409, "busy": 429}
#: Seconds that results are kept, less the time for the last checks.
RETAIN = 250
EXAMPLES = int(os.environ.get("TEST_EXAMPLES", "400"))


@define(eq=False)
class Job:
    """One start request, as the job server knows it.

    :ivar is_refused: whether its response says that the job does not run.
    :ivar has_called_back: whether a callback was sent; then no response says that.
    """

    start: Start
    number: int
    body: bytes
    has_response: bool = False
    is_refused: bool = False
    has_called_back: bool = False


@define(eq=False)
class Key:
    """What has to hold of one key.

    :ivar told: the result that got 200, and when.
    :ivar is_excused: whether the store lost its data, so that less has to hold.
    """

    jobs: list[Job] = field(factory=list)
    clients: list[Client] = field(factory=list)
    told: tuple[bytes, float] | None = None
    is_excused: bool = False

    @property
    def started(self) -> list[Job]:
        return [job for job in self.jobs if not job.is_refused]


class NodesMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(3, {**DEFAULTS, "starts_per_account": 2})
        self.keys = {number: Key() for number in KEYS}
        self.seen = 0

    @property
    def jobs(self) -> list[Job]:
        return [job for key in self.keys.values() for job in key.jobs]

    def node(self, number: int) -> Node:
        return self.cluster.nodes[number]

    def look(self, known: dict[int, int] | None = None) -> None:
        """Note new start requests, and check what clients have got."""
        self.cluster.settle()
        for start in self.cluster.starts[self.seen :]:
            number = start.body["n"]
            key = self.keys[number]
            key.jobs.append(Job(start, number, result_of(f"{number}-{len(key.jobs)}")))
        self.seen = len(self.cluster.starts)
        for number, key in self.keys.items():
            if not key.is_excused:
                assert len(key.started) <= 1, "a second start"
            for client in list(key.clients):
                if client.responses:
                    key.clients.remove(client)
                    self.check(key, client, (known or {}).get(number, 0))

    def check(self, key: Key, client: Client, known: int) -> None:
        (response,) = client.responses
        if response.status == 200:
            assert key.is_excused or response.body in {job.body for job in key.jobs}
        elif response.json.get("started") == "no" and known and not key.is_excused:
            assert response.json["type"].endswith("idempotency-key-reused") or not key.started

    def count(self) -> dict[int, int]:
        """Return how many jobs of each key were started before the next step."""
        return {number: len(key.started) for number, key in self.keys.items()}

    @rule(node=NODES, number=st.sampled_from(KEYS), wait=st.sampled_from(["", "wait=3"]))
    def submit(self, node: int, number: int, wait: str) -> None:
        known = self.count()
        if self.node(node).is_alive:
            headers = {"Prefer": wait} if wait else {}
            key = self.keys[number]
            key.clients.append(self.node(node).submit(key=f"k{number}", number=number, **headers))
        self.look(known)

    @rule(number=st.sampled_from(KEYS), turn=st.integers(0, 3))
    def leave(self, number: int, turn: int) -> None:
        known, key = self.count(), self.keys[number]
        if turn < len(key.clients):
            key.clients.pop(turn).leave()
        self.look(known)

    @precondition(lambda self: any(not job.has_response for job in self.jobs))
    @rule(data=st.data(), how=st.sampled_from(["ack", "ack", "reject", "busy", "lose", "inline"]))
    def respond(self, data: st.DataObject, how: str) -> None:
        known = self.count()
        waiting = [job for job in self.jobs if not job.has_response]
        job = data.draw(st.sampled_from(waiting))
        job.has_response = True
        if how == "ack":
            job.start.ack(f"{job.number}-{self.keys[job.number].jobs.index(job)}")
        elif how == "lose" or (how in REFUSALS and job.has_called_back):
            job.start.lose()
        elif how == "inline":
            job.start.respond(job.body)
        else:
            job.is_refused = True
            job.start.respond(b"", REFUSALS[how])
        self.look(known)

    @precondition(lambda self: any(not job.is_refused for job in self.jobs))
    @rule(data=st.data(), node=NODES)
    def call_back(self, data: st.DataObject, node: int) -> None:
        known = self.count()
        jobs = [job for job in self.jobs if not job.is_refused]
        self.send(data.draw(st.sampled_from(jobs)), self.node(node))
        self.look(known)

    def send(self, job: Job, node: Node) -> None:
        if node.is_alive:
            job.has_called_back = True
            sender = node.send_callback(job.start, job.body)
            self.cluster.settle()
            if sender.responses and sender.response.status == 200:
                key = self.keys[job.number]
                key.told = key.told or (job.body, self.cluster.clock.seconds())
        job.has_response |= not job.start.is_connected

    @rule(node=NODES)
    def kill(self, node: int) -> None:
        known, dead = self.count(), self.node(node)
        for key in self.keys.values():
            key.clients = [client for client in key.clients if client not in dead.clients]
        dead.kill()
        self.cluster.replace(dead)
        self.look(known)

    @rule(node=NODES, how=st.sampled_from(["go away", "come back", "lose messages", "hear again"]))
    def change_store(self, node: int, how: str) -> None:
        known, store = self.count(), self.node(node).store
        if how == "go away":
            store.go_away()
        elif how == "come back" and not store.is_up:
            store.come_back()
        elif how == "lose messages":
            store.loses_messages = True
        elif how == "hear again":
            self.hear_again(self.node(node))
        self.look(known)

    def hear_again(self, node: Node) -> None:
        """Let a node notice that it has missed messages: its connection was broken."""
        if node.store.loses_messages:
            node.store.loses_messages = False
            node.store.go_away()
        if not node.store.is_up:
            node.store.come_back()

    @rule()
    def lose_data(self) -> None:
        """Empty the store: results are lost, and the keys of nodes that are dead or cut off."""
        known = self.count()
        living = {node.name for node in self.cluster.living if node.store.is_up}
        for key in self.keys.values():
            owners = {node_of(job.start.job_id) for job in key.jobs}
            key.is_excused |= bool(owners - living)
            key.told = None
        self.cluster.shared.lose_data()
        self.look(known)

    @rule(seconds=st.sampled_from([0.1, 1, 3]))
    def pass_time(self, seconds: float) -> None:
        known = self.count()
        for _ in range(round(seconds * 10)):
            self.cluster.clock.advance(0.1)
            self.look(known)

    def teardown(self) -> None:
        for node in self.cluster.living:
            self.hear_again(node)
        self.pass_time(3)
        for key in self.keys.values():
            for job in key.jobs:
                if not job.has_response and job.start.is_connected:
                    job.has_response = True
                    job.start.ack("x")
        self.look()
        for number, key in self.keys.items():
            self.check_told(number, key)
        for node in self.cluster.living:
            for client in node.clients:
                client.leave()
        self.cluster.check_end()

    def check_told(self, number: int, key: Key) -> None:
        """Check that a result that got 200 is found at every node."""
        if key.told is None or key.is_excused:
            return
        body, at = key.told
        if self.cluster.clock.seconds() - at > RETAIN:
            return
        for node in self.cluster.living:
            client: Any = node.submit(key=f"k{number}", number=number)
            self.cluster.settle()
            assert client.responses, "the result is not found"
            assert (client.response.status, client.response.body) == (200, body)


NodesMachineTests = NodesMachine.TestCase
NodesMachineTests.settings = settings(max_examples=EXAMPLES, stateful_step_count=30)
