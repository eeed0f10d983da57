"""The drain of a proxy whose port stays open for the next process."""

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred

from jobproxy.app.drain import Drain
from jobproxy.daemon.systemd import Notifier
from jobproxy.util.deadline import TURNS
from tests.support.proxy import ProxyTestCase, result_of


class HandingOnTests(ProxyTestCase):
    """G1: the drain leaves new clients to the next process, and serves its own."""

    def setUp(self) -> None:
        super().setUp()
        self.port = Service()
        services = MultiService()
        self.port.setServiceParent(services)
        services.startService()
        self.shutdown = Drain(
            self.clock, [self.gateway], [self.site], 20, Notifier(), ports=[self.port]
        )

    def drain(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.shutdown.finish_jobs())

    def test_port_closes_when_the_drain_begins(self) -> None:
        """G1: no connection is accepted from the moment at which the drain begins."""
        self.assertTrue(self.port.running)
        drained = self.drain()
        self.assertFalse(self.port.running)
        self.clock.pump([0.1, *TURNS * [0]])
        self.successResultOf(drained)

    def test_job_of_a_client_that_just_connected_is_accepted(self) -> None:
        """G1: the job of a client that connected just before is accepted, if it comes soon."""
        client = self.connect()
        drained = self.drain()
        self.clock.advance(0.09)
        client.request()
        self.clock.pump([0.02, *TURNS * [0]])
        self.assertTrue(client.is_held)
        self.assertNoResult(drained)
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.successResultOf(drained)

    def test_connections_for_callbacks_stay_open_to_the_end(self) -> None:
        """G1: no connection of the job server is closed while a callback is expected."""
        shutdown = Drain(self.clock, [self.gateway], [self.site], 20, Notifier(), self.site)
        client, idle = self.submit(), self.connect()
        self.starts[0].ack("1")
        drained = Deferred.fromCoroutine(shutdown.finish_jobs())
        self.clock.pump([*TURNS * [0], 1])
        idle.request(self.starts[0].callback_path, result_of("1"))
        self.assertEqual((idle.response.status, client.response.body), (200, result_of("1")))
        self.successResultOf(drained)
        self.assertTrue(idle.transport.connected)
        flushed = Deferred.fromCoroutine(shutdown.flush())
        self.clock.pump(TURNS * [0])
        self.successResultOf(flushed)
        self.assertFalse(idle.transport.connected)

    def test_silent_connection_is_closed_soon(self) -> None:
        """G2: a connection on which nothing comes is closed soon after the drain began."""
        client = self.connect()
        drained = self.drain()
        self.assertTrue(client.transport.connected)
        self.clock.pump([0.1, *TURNS * [0]])
        self.assertFalse(client.transport.connected)
        self.successResultOf(drained)
