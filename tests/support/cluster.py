"""Several whole proxies in memory, which share a clock, a job server and a store."""

import json
from collections.abc import Callable
from itertools import count
from typing import Any, cast

from attrs import evolve
from twisted.internet.task import Clock

from jobproxy.app.environment import Environment
from jobproxy.cluster.remote_jobs import OWNER_TIMEOUT
from jobproxy.cluster.store_coordinator import StoreCoordinator
from jobproxy.store.interface import IStore
from jobproxy.store.shared import Shared
from jobproxy.wire.tokens import LIFETIME
from tests.support.clients import Client
from tests.support.job_server import FakeJobServer, Start
from tests.support.memory_network import Network
from tests.support.node_clock import NodeClock
from tests.support.proxy import ProblemTestCase, Proxy
from tests.support.remote_store import KEPT_ALIVE, RemoteStore


class Node(Proxy):
    """One node of a cluster."""

    def __init__(self, cluster: "Cluster", name: str, settings: dict[str, Any]) -> None:
        self.name = name
        self.settings = settings
        self.is_alive = True
        self.own_clock = NodeClock(cluster.clock)
        self.store, self._die = cluster.make_store(self)
        self.build(cluster.clock, cluster.job_server)
        self.clock = cast(Clock, self.own_clock)

    def make_environment(self, reactor: Any) -> Environment:
        return evolve(
            super().make_environment(self.own_clock), store=cast(IStore, self.store), node=self.name
        )

    def start(self) -> None:
        """Start the services as the daemon does."""
        self.coordinator.startService()

    @property
    def coordinator(self) -> StoreCoordinator:
        return cast(StoreCoordinator, self.gateway.coordinator)

    def submit(
        self, account: str = "example", *, key: str | None = None, number: int = 0, **headers: str
    ) -> Client:
        """Send a job as a client, perhaps with a key; its number makes it another job."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            fields["Idempotency-Key"] = key
        body = json.dumps({"account": account, "n": number}).encode()
        return self.connect().request(body=body, headers=fields)

    def poll(self, job_id: str, **headers: str) -> Client:
        """Ask for a job as a client."""
        return self.connect().get(f"/jobs/{job_id}", **headers)

    def list_orphans(self) -> list[str]:
        """Return the job ids of the orphans, as an operator sees them."""
        return [orphan["job"] for orphan in self.operate().get("/orphans").response.json["orphans"]]

    def read_metric(self, name: str) -> float:
        """Return a metric; zero if it was not counted yet."""
        text = self.operate().get("/metrics").response.body.decode()
        found = [line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0]) if found else 0.0

    def stop(self) -> None:
        """Stop the services as the daemon does, in order."""
        self.table.stopService()
        self.coordinator.stopService()
        self.is_alive = False

    def kill(self) -> None:
        """End the process: it sends nothing any more, and nothing of it continues."""
        self._die()
        self.own_clock.die()
        self.is_alive = False
        for client in self.clients:
            client.transport.connected = False
        self.sender.is_dead = True
        KEPT_ALIVE.append(self)


class Cluster:
    """Nodes that share a clock, a job server and a store.

    :param make_store: returns the store of a node, and what is called when its process is killed.
    """

    def __init__(
        self,
        size: int,
        settings: dict[str, Any],
        make_store: Callable[[Node], tuple[Any, Callable[[], object]]] | None = None,
    ) -> None:
        self.clock = Network()
        self.job_server = FakeJobServer(self.clock)
        self.shared = Shared(self.clock, settings.get("retain", 300.0))
        self.settings = settings
        self.make_store = make_store or self._share_store
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
        """Replace a dead node by a new one."""
        self.add_node().start()
        self.nodes[self.nodes.index(dead)] = self.nodes.pop()
        return self.nodes[-1]

    def _share_store(self, node: Node) -> tuple[Any, Callable[[], object]]:
        store = RemoteStore(self.shared, node.name)
        return store, store.die

    def settle(self) -> None:
        """Deliver all messages that were sent."""
        self.clock.advance(0)

    def set_latency(self, seconds: float) -> None:
        """Set the seconds of the way to the store, and of the way back, for all nodes."""
        for node in self.nodes:
            node.store.latency = seconds

    def go_away(self) -> None:
        """Disconnect all nodes from the store."""
        for node in self.living:
            node.store.go_away()

    def come_back(self, *, is_empty: bool = False) -> None:
        """Connect all nodes to the store again, which has perhaps lost everything."""
        if is_empty:
            self.shared.forget()
        for node in self.living:
            node.store.come_back()

    def check_end(self) -> None:
        """Check that nothing stays for good: all that is kept expires."""
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
        self.cluster = self.make_cluster()
        self.clock, self.starts = self.cluster.clock, self.cluster.starts

    def tearDown(self) -> None:
        super().tearDown()
        self.cluster.check_end()

    def make_cluster(self) -> Cluster:
        """Return the cluster of a test."""
        return Cluster(self.size, self.settings)

    @property
    def nodes(self) -> list[Node]:
        return self.cluster.nodes

    def assert_result(self, client: Client, body: bytes, *, is_replayed: bool = False) -> None:
        """Check that a client got a result, byte for byte."""
        response = client.response
        self.assertEqual((response.status, response.body), (200, body))
        replayed = response.headers.get("idempotent-replayed")
        self.assertEqual(replayed, "true" if is_replayed else None)
