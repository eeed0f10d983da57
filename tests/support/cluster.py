"""Several whole proxies in memory, which share a clock, a job server and a store."""

import json
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, TypeVar, cast

from attrs import define, evolve, field
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock
from zope.interface import implementer

from jobproxy.app.build import Environment
from jobproxy.cluster.remote_jobs import OWNER_TIMEOUT
from jobproxy.cluster.shared import SharedCoordinator
from jobproxy.store.interface import Message, StoreUnreachable
from jobproxy.store.memory import MemoryStore, Shared
from jobproxy.wire.tokens import LIFETIME
from tests.support.job_server import FakeJobServer, Start
from tests.support.memory_network import Network
from tests.support.proxy import Client, ProblemTestCase, Proxy

Told = TypeVar("Told")

#: Dead nodes, and what they wait for. Python ends the coroutines of what it collects, which then do
#: things that no dead process does.
GRAVEYARD: list[object] = []


def job_id_of(start: Start) -> str:
    """Return the handle of the job that a start is of."""
    return start.callback_path.rpartition("/")[2].partition(".")[0]


@implementer(IReactorTime)
class NodeClock:
    """The clock of one node: the one that all share, until the node is dead."""

    def __init__(self, shared: Clock) -> None:
        self._shared = shared
        self._is_dead = False

    def seconds(self) -> float:
        return self._shared.seconds()

    def callLater(
        self,
        delay: float,
        callable: Any,  # noqa: A002
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if self._is_dead:
            return DelayedCall(0, callable, args, kwargs, _do_nothing, _do_nothing, self.seconds)
        return self._shared.callLater(delay, self._call, callable, args, kwargs)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        return self._shared.getDelayedCalls()

    def die(self) -> None:
        """Have nothing called any more."""
        self._is_dead = True

    def _call(self, call: Callable[..., object], args: Any, kwargs: Any) -> None:
        if not self._is_dead:
            call(*args, **kwargs)


def _do_nothing(call: DelayedCall) -> None:
    """Stand for what a reactor does with a call that is put off."""


@define(eq=False)
class FarStore(MemoryStore):
    """A store behind a network, which takes time and loses what is on its way when it breaks.

    :ivar latency: seconds for each way.
    :ivar loses_questions: whether what was asked just before the break is not done.
    """

    latency: float = field(default=0.0, init=False)
    loses_questions: bool = field(default=False, init=False)
    _is_dead: bool = field(default=False, init=False)
    #: How many times the node has gone.
    _session: int = field(default=0, init=False)
    _asked: dict[Deferred[Any], None] = field(factory=dict, init=False)

    def die(self) -> None:
        """Leave without a word; whatever is asked is never answered."""
        self._is_dead = True
        self._session += 1
        self._shared.nodes.pop(self.node, None)

    def go_away(self) -> None:
        self._session += 1
        super().go_away()
        for answered in list(self._asked):
            self._shared.clock.callLater(0, self._fail, answered)

    def come_back(self) -> None:
        self._shared.nodes[self.node] = self
        self.is_up = True
        self._listener.catch_up().addCallbacks(
            self._join, lambda failure: failure.trap(StoreUnreachable)
        )

    def _join(self, _: object) -> None:
        self.is_joined = True

    def _do(self, act: Callable[[], Told]) -> Deferred[Told]:
        if self._is_dead:
            never: Deferred[Told] = Deferred()
            GRAVEYARD.append(never)
            return never
        if not self.latency or not self.is_up:
            return super()._do(act)
        answered: Deferred[Told] = Deferred(lambda _: self._asked.pop(answered))
        self._asked[answered] = None
        self._shared.clock.callLater(self.latency, self._reach, act, answered, self._session)
        return answered

    def _reach(self, act: Callable[[], Told], answered: Deferred[Told], session: int) -> None:
        if session == self._session or not self.loses_questions:
            done = execute(act)
            self._shared.clock.callLater(self.latency, self._answer, done, answered, session)

    def _answer(self, done: Deferred[Told], answered: Deferred[Told], session: int) -> None:
        if session == self._session and answered in self._asked:
            del self._asked[answered]
            self.calls["ok"] += 1
            done.chainDeferred(answered)

    def _fail(self, answered: Deferred[Any]) -> None:
        if answered in self._asked:
            del self._asked[answered]
            self.calls["failed"] += 1
            answered.errback(StoreUnreachable())

    def _send(self, node: str, message: Message) -> bool:
        store = self._shared.nodes.get(node)
        if not isinstance(store, FarStore):
            return False
        self._shared.clock.callLater(store.latency, store._hear, message, store._session)
        return True

    def _hear(self, message: Message, session: int) -> None:
        if session == self._session:
            self.receive(message)


class Node(Proxy):
    """One node of a cluster."""

    def __init__(self, cluster: "Cluster", name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self.settings = settings
        self.is_alive = True
        self.own_clock = NodeClock(cluster.clock)
        self.store = FarStore(cluster.shared, name)
        self.build(cluster.clock, cluster.job_server)
        self.clock = cast(Clock, self.own_clock)

    def make_environment(self, reactor: Any) -> Environment:
        return evolve(super().make_environment(self.own_clock), store=self.store, node=self.name)

    def start(self) -> None:
        """Start the services as the daemon does."""
        self.coordinator.startService()

    @property
    def coordinator(self) -> SharedCoordinator:
        return cast(SharedCoordinator, self.gateway.coordinator)

    def submit(
        self, account: str = "example", *, key: str | None = None, number: int = 0, **headers: str
    ) -> Client:
        """Have a client send a job, perhaps with a key; its number makes it another job."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            fields["Idempotency-Key"] = key
        body = json.dumps({"account": account, "n": number}).encode()
        return self.connect().request(body=body, headers=fields)

    def poll(self, job_id: str, **headers: str) -> Client:
        """Have a client ask for a job."""
        return self.connect().get(f"/jobs/{job_id}", **headers)

    def list_orphans(self) -> list[str]:
        """Return the handles of the orphans that an operator is shown."""
        return [orphan["job"] for orphan in self.operate().get("/orphans").response.json["orphans"]]

    def read_metric(self, name: str) -> float:
        """Return a metric, or nothing of what was not counted yet."""
        text = self.operate().get("/metrics").response.body.decode()
        found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0]) if found else 0.0

    def stop(self) -> None:
        """Stop the services as the daemon does, in order."""
        self.table.stopService()
        self.coordinator.stopService()
        self.is_alive = False

    def kill(self) -> None:
        """End the process: nothing is said, and nothing of it goes on."""
        self.store.die()
        self.own_clock.die()
        self.is_alive = False
        for client in self.clients:
            client.transport.connected = False
        self.sender.is_dead = True
        GRAVEYARD.append(self)


class Cluster:
    """Nodes that share everything that they can."""

    def __init__(self, size: int, settings: dict[str, Any]) -> None:
        self.clock = Network()
        self.job_server = FakeJobServer(self.clock)
        self.shared = Shared(self.clock, settings.get("retain", 300.0))
        self.settings = settings
        self.nodes: list[Node] = []
        self._numbers = count()
        for _ in range(size):
            self.add_node().start()

    @property
    def starts(self) -> list[Start]:
        return self.job_server.starts

    @property
    def living(self) -> list[Node]:
        return [node for node in self.nodes if node.is_alive]

    def add_node(self) -> Node:
        """Make a node, which has not joined the others yet."""
        node = Node(self, f"node-{next(self._numbers):03}", self.settings)
        self.nodes.append(node)
        return node

    def replace(self, dead: Node) -> Node:
        """Have a new node join in the place of a dead one."""
        self.add_node().start()
        self.nodes[self.nodes.index(dead)] = self.nodes.pop()
        return self.nodes[-1]

    def settle(self) -> None:
        """Have all be heard that was said."""
        self.clock.advance(0)

    def set_latency(self, seconds: float) -> None:
        """Have the way to the store, and the way back, take so long for all."""
        for node in self.nodes:
            node.store.latency = seconds

    def go_away(self) -> None:
        """Have the store be away for all."""
        for node in self.living:
            node.store.go_away()

    def come_back(self, *, is_empty: bool = False) -> None:
        """Have the store be there again, perhaps without anything that it knew."""
        if is_empty:
            self.shared.forget()
        for node in self.living:
            node.store.come_back()

    def check_end(self) -> None:
        """Look whether anything stays for good: all that is kept has its time."""
        for node in self.living:
            assert node.table.clients.held == 0, node.name
            for client in node.clients:
                client.leave()
        self.clock.advance(OWNER_TIMEOUT)
        self.clock.advance(LIFETIME)
        self.clock.advance(LIFETIME)
        for node in self.living:
            kept = (len(node.table), node.table.retention.retained, len(node.limiter))
            assert kept == (0, 0, 0), (node.name, kept)
            assert node.coordinator.watched == 0, node.name
        assert not self.clock.getDelayedCalls()


class ClusterTestCase(ProblemTestCase):
    """A cluster in memory; when the test ends, nothing may be left in it.

    :cvar settings: what differs from the defaults of a proxy.
    """

    settings: dict[str, Any] = {}
    size = 3

    def setUp(self) -> None:
        super().setUp()
        self.cluster = Cluster(self.size, self.settings)
        self.clock, self.starts = self.cluster.clock, self.cluster.starts

    def tearDown(self) -> None:
        super().tearDown()
        self.cluster.check_end()

    @property
    def nodes(self) -> list[Node]:
        return self.cluster.nodes

    def assert_result(self, client: Client, body: bytes, *, is_replayed: bool = False) -> None:
        """Check that a client got a result, byte for byte."""
        response = client.response
        self.assertEqual((response.status, response.body), (200, body))
        replayed = response.headers.get("idempotent-replayed")
        self.assertEqual(replayed, "true" if is_replayed else None)
