"""The way out of a proxy whose port stays open for the next one."""

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred

from jobproxy.app.drain import Drain
from jobproxy.daemon.systemd import Notifier
from jobproxy.util.deadline import TURNS
from tests.support.proxy import ProxyTestCase, result_of


class HandingOnTests(ProxyTestCase):
    """G1: the drain leaves new clients to the next process, and looks after those it has."""

    def setUp(self) -> None:
        super().setUp()
        self.port = Service()
        services = MultiService()
        self.port.setServiceParent(services)
        services.startService()
        self.shutdown = Drain(
            self.clock, self.gateway, [self.site], 20, Notifier(), inherited=[self.port]
        )

    def drain(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.shutdown.finish_jobs())

    def test_port_is_left_first(self) -> None:
        """G1: nobody is let in any more from the moment at which the drain begins."""
        self.assertTrue(self.port.running)
        drained = self.drain()
        self.assertFalse(self.port.running)
        self.clock.pump([0.1, *TURNS * [0]])
        self.successResultOf(drained)

    def test_who_was_let_in_is_served(self) -> None:
        """G1: the job of a client that was let in just before is taken, if it comes soon."""
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

    def test_callbacks_may_come_to_the_end(self) -> None:
        """G1: no connection of the job server is closed under a callback that is waited for."""
        shutdown = Drain(self.clock, self.gateway, [self.site], 20, Notifier(), self.site)
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

    def test_who_says_nothing_is_not_waited_for(self) -> None:
        """G2: a connection on which nothing comes is closed a moment after the drain began."""
        client = self.connect()
        drained = self.drain()
        self.assertTrue(client.transport.connected)
        self.clock.pump([0.1, *TURNS * [0]])
        self.assertFalse(client.transport.connected)
        self.successResultOf(drained)
