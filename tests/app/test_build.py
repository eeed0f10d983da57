"""The wiring: what ``build_proxy`` makes of settings and an environment."""

from typing import Any

from attrs import evolve
from twisted.application.service import IService

from jobproxy.app.build import Proxy, build_proxy
from jobproxy.app.settings import CorrelateBy, Settings, SlotScope
from jobproxy.cluster.local_coordinator import LocalCoordinator
from jobproxy.cluster.store_coordinator import StoreCoordinator
from jobproxy.store.memory import MemoryStore
from jobproxy.store.shared import Shared
from jobproxy.wire.tokens import MIN_KEY, TokenSigner
from tests.support.clients import Client
from tests.support.proxy import (
    CALLBACK_URL,
    EPOCH,
    JOB_PATHS,
    MONITORING_PATHS,
    OPERATOR_PATHS,
    ProxyTestCase,
    find_served,
    result_of,
)

OWN_PORTS: dict[str, Any] = {"callback_listen": ("tcp:0",), "admin_listen": ("tcp:0",)}


class BuildTestCase(ProxyTestCase):
    def make(self, environment: dict[str, Any] | None = None, **settings: Any) -> Proxy:
        """Build another proxy, with the defaults of the options."""
        whole = Settings(
            callback_url=CALLBACK_URL, job_server_url="http://127.0.0.1:9000/start", **settings
        )
        return build_proxy(whole, evolve(self.make_environment(self.clock), **(environment or {})))


class ServedTests(BuildTestCase):
    """Which routes are served on which port."""

    def test_one_server_has_jobs_callbacks_and_monitoring(self) -> None:
        """Without ports of their own, callbacks, health and metrics are served with the jobs."""
        proxy = self.make()
        self.assertEqual((proxy.callbacks, proxy.admin), (None, None))
        self.assertEqual(proxy.factories, [proxy.clients])
        self.assertEqual(find_served(proxy.clients), JOB_PATHS | MONITORING_PATHS | {"/callback/x"})

    def test_callbacks_with_a_port_of_their_own_are_served_only_there(self) -> None:
        """Callbacks with a port of their own are served only there, and nothing else is."""
        proxy = self.make(callback_listen=("tcp:0",))
        assert proxy.callbacks is not None
        self.assertEqual(find_served(proxy.callbacks), {"/callback/x"})
        self.assertEqual(find_served(proxy.clients), JOB_PATHS | MONITORING_PATHS)

    def test_operator_with_a_port_has_all_routes_there(self) -> None:
        """The operator's routes, health and metrics are served only on the operator's port."""
        proxy = self.make(admin_listen=("tcp:0",))
        assert proxy.admin is not None
        self.assertEqual(find_served(proxy.admin), MONITORING_PATHS | OPERATOR_PATHS)
        self.assertEqual(find_served(proxy.clients), JOB_PATHS | {"/callback/x"})

    def test_servers_drain_in_order(self) -> None:
        """The servers are listed with that of the clients last."""
        proxy = self.make(**OWN_PORTS)
        self.assertEqual(proxy.factories, [proxy.callbacks, proxy.admin, proxy.clients])

    def test_callbacks_with_ids_are_served_at_the_callback_url(self) -> None:
        """With ``correlate_by`` id, callbacks are served at the callback URL itself."""
        proxy = self.make(correlate_by=CorrelateBy.ID, callback_listen=("tcp:0",))
        assert proxy.callbacks is not None
        self.assertEqual(find_served(proxy.callbacks), {"/callback"})

    def test_max_body_is_for_all_servers(self) -> None:
        """The maximum size of a body is for all servers."""
        for site in self.make(max_body=50, **OWN_PORTS).factories:
            for length, status in ((50, 404), (51, 413)):
                client = Client(site).request("/x", b"x" * length)
                self.assertEqual(client.response.status, status)
                client.leave()

    def test_one_gateway_is_behind_all_servers(self) -> None:
        """A job that comes to one port is called back on another, and counted on the third."""
        proxy = self.make(**OWN_PORTS)
        assert proxy.callbacks is not None
        assert proxy.admin is not None
        client = Client(proxy.clients).request()
        callback = Client(proxy.callbacks).request(self.starts[0].callback_path, result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        status = Client(proxy.admin).get("/status")
        self.assertEqual(status.response.json["callbacks"], {"accepted": 1})
        self.starts[0].ack("1")
        for each in (client, callback, status):
            each.leave()


class ServiceTests(BuildTestCase):
    """What has to run."""

    def test_table_is_the_last_service_of_one_node(self) -> None:
        """The table is the last service, so that it is stopped first; one node has no other."""
        proxy = self.make()
        self.assertIsInstance(proxy.gateway.coordinator, LocalCoordinator)
        lag, watch, feed, table = proxy.services
        self.assertIs(watch, proxy.watch)
        self.assertIs(feed, proxy.feed)
        self.assertIs(table, proxy.gateway.table)
        for service in (lag, watch, feed, table):
            self.assertTrue(IService.providedBy(service))

    def test_coordinator_is_stopped_after_the_table(self) -> None:
        """The store is closed after the table has published its last results."""
        store = MemoryStore(Shared(self.clock, 300), "node-000")
        proxy = self.make({"store": store, "node": "node-000"}, secret_file=(b"k" * 32,))
        self.assertIsInstance(proxy.gateway.coordinator, StoreCoordinator)
        _, _, feed, coordinator, table = proxy.services
        self.assertIs(feed, proxy.feed)
        self.assertIs(coordinator, proxy.gateway.coordinator)
        self.assertIs(table, proxy.gateway.table)

    def test_nothing_runs_before_its_service_is_started(self) -> None:
        """A proxy that was only built has set no timer and opened no store."""
        store = MemoryStore(Shared(self.clock, 300), "node-000")
        for each in (None, store):
            self.make({"store": each, "node": "node-000"}, secret_file=(b"k" * 32,), **OWN_PORTS)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse(store.is_up)


class EnvironmentTests(BuildTestCase):
    """What comes from the environment."""

    def test_key_is_drawn_without_a_secret_file(self) -> None:
        """Without a secret file the key of the tokens is drawn from the given entropy."""
        proxy = self.make({"entropy": lambda size: b"e" * size})
        for key, status in ((b"e" * MIN_KEY, 200), (b"k" * MIN_KEY, 404)):
            token = TokenSigner([key], now=lambda: EPOCH, node="only-one").mint().text
            client = Client(proxy.clients).request(f"/callback/{token}", b'{"state":"running"}')
            self.assertEqual(client.response.status, status)
            client.leave()

    def test_job_id_has_the_name_of_the_node(self) -> None:
        """The job id has the name of the node, by which other nodes find the owner."""
        proxy = self.make({"node": "node-007"})
        client = Client(proxy.clients).request()
        self.assertEqual(self.starts[0].job_id[8:16], "node-007")
        self.starts[0].respond(result_of("1"))
        client.leave()

    def test_slots_are_counted_by_the_store_for_a_cluster(self) -> None:
        """With ``slot_scope`` cluster the start requests of all nodes share the slots."""
        shared = Shared(self.clock, 300)
        for scope, started in ((SlotScope.NODE, 2), (SlotScope.CLUSTER, 1)):
            self.starts.clear()
            clients = []
            for node in ("node-000", "node-001"):
                proxy = self.make(
                    {"store": MemoryStore(shared, node), "node": node},
                    secret_file=(b"k" * 32,),
                    slot_scope=scope,
                    starts_per_account=1,
                )
                coordinator = proxy.gateway.coordinator
                assert isinstance(coordinator, StoreCoordinator)
                coordinator.startService()
                clients.append(Client(proxy.clients).request())
            self.assertEqual(len(self.starts), started, scope)
            while self.starts:
                self.starts.pop().respond(result_of("1"))
                self.clock.pump([1, 1])
            self.assertEqual([client.response.status for client in clients], [200, 200])
            for client in clients:
                client.leave()
