"""The drain: the delay before it, and ports that close first."""

from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred

from jobproxy.app.drain import Drain
from jobproxy.daemon.systemd import Notifier
from jobproxy.util.deadline import TURNS
from tests.support.clients import Client
from tests.support.proxy import ProxyTestCase, result_of

RESULT = result_of("1")


class ClosingTests(ProxyTestCase):
    """G1: the drain leaves new clients to other processes, and serves its own."""

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

    def test_callback_that_has_arrived_when_the_time_is_over_counts(self) -> None:
        """G1, T3: a callback that is read just after a stall ends its job before the drain ends."""
        client = self.submit()
        self.starts[0].ack("1")
        drained = self.drain()
        self.clock.pump([0.1, *TURNS * [0]])
        self.clock.callLater(20, self.clock.callLater, 0, self.call_back, self.starts[0], RESULT)
        drained.addCallback(lambda _: self.gateway.table.stopService())
        self.clock.advance(20)
        self.successResultOf(drained)
        self.assertEqual((client.response.status, client.response.body), (200, RESULT))

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

    def test_silent_connection_is_closed_when_no_client_is_held(self) -> None:
        """G2: a connection on which nothing comes does not hold up the end of the process."""
        client = self.connect()
        drained = self.drain()
        self.clock.pump([0.1, *TURNS * [0]])
        self.successResultOf(drained)
        self.assertTrue(client.transport.connected)
        flushed = Deferred.fromCoroutine(self.shutdown.flush())
        self.clock.pump(TURNS * [0])
        self.assertFalse(client.transport.connected)
        self.successResultOf(flushed)

    def test_first_request_of_a_connection_gets_a_response_while_clients_are_held(self) -> None:
        """G2: who has connected and is slow to send is refused in words, not by a close."""
        held, idle, slow = self.submit(), self.connect().get("/elsewhere"), self.connect()
        self.starts[0].ack("1")
        drained = self.drain()
        self.clock.pump([0.1, *TURNS * [0], 1])
        self.assertFalse(idle.transport.connected)
        slow.request()
        self.assertEqual(slow.response.status, 503)
        self.assertEqual(slow.response.headers["connection"], "close")
        self.call_back(self.starts[0], RESULT)
        self.assertEqual(held.response.body, RESULT)
        self.successResultOf(drained)


class RestTests(ProxyTestCase):
    """G2: requests that never arrive as a whole do not hold up the end of the process."""

    def test_all_ports_end_together(self) -> None:
        """G2: half a request on each port is reset after a second; who receives has five."""
        sites = [self.site, self.admin_site]
        shutdown = Drain(self.clock, [self.gateway], sites, 20, Notifier())
        drained = Deferred.fromCoroutine(shutdown.finish_jobs())
        self.clock.pump(TURNS * [0])
        self.successResultOf(drained)
        halves = [Client(site).send(b"POST /proxy HTTP/1.1\r\nHost: x\r\n") for site in sites]
        late = Client(self.site).send(b"GET /hea")
        flushed = Deferred.fromCoroutine(shutdown.flush())
        self.clock.pump([*TURNS * [0], 0.9])
        self.assertTrue(all(half.transport.connected for half in (*halves, late)))
        late.send(b"lthz HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(late.response.status, 404)
        self.clock.advance(0.2)
        self.assertFalse(any(half.transport.connected for half in halves))
        self.successResultOf(flushed)


class DelayTests(ProxyTestCase):
    """G16: a proxy that is not ready any more, and accepts jobs until its drain begins."""

    def setUp(self) -> None:
        super().setUp()
        self.shutdown = Drain(
            self.clock, [self.gateway], [self.site, self.admin_site], 20, Notifier(), delay=5
        )
        self.idle = self.connect().get("/elsewhere")
        self.drained = Deferred.fromCoroutine(self.shutdown.finish_jobs())

    def read_readiness(self) -> tuple[int, list[str]]:
        response = self.operate().get("/readyz").response
        return response.status, response.json["reasons"]

    def finish(self) -> None:
        self.clock.pump(TURNS * [0])
        self.successResultOf(self.drained)

    def test_proxy_is_not_ready_at_once(self) -> None:
        """G16: the proxy is not ready from the moment of the signal, and healthy."""
        self.assertEqual(self.read_readiness(), (503, ["draining"]))
        self.assertEqual(self.operate().get("/healthz").response.status, 200)
        self.clock.advance(5)
        self.finish()

    def test_jobs_are_accepted_until_the_delay_is_over(self) -> None:
        """G16: a job is accepted until the delay is over, and gets its result after it."""
        self.clock.advance(4.9)
        client = self.submit()
        self.clock.advance(0.1)
        self.clock.pump(TURNS * [0])
        self.assert_problem(self.submit().response, 503, "draining")
        self.assertNoResult(self.drained)
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(client.response.body, result_of("1"))
        self.successResultOf(self.drained)

    def test_queue_goes_on(self) -> None:
        """G16: queued jobs are started in the delay."""
        clients = [self.submit() for _ in range(3)]
        self.assertEqual(len(self.starts), 2)
        for number in range(3):
            self.starts[number].ack(f"{number}")
            self.call_back(self.starts[number], result_of(f"{number}"))
        self.assertEqual([client.response.status for client in clients], [200] * 3)
        self.clock.advance(5)
        self.finish()

    def test_kept_connections_end_with_their_next_response(self) -> None:
        """G2, G16: a kept connection stays open in the delay, and ends with its next response."""
        unused = self.connect().get("/elsewhere")
        self.assertEqual(unused.response.headers["connection"], "close")
        self.assertTrue(self.idle.transport.connected)
        self.idle.request()
        self.starts[0].ack("1")
        self.call_back(self.starts[0], result_of("1"))
        self.assertFalse(self.idle.transport.connected)
        self.clock.advance(5)
        self.finish()

    def test_second_signal_ends_the_delay(self) -> None:
        """G3, G16: a second signal ends the delay and the drain."""
        client = self.submit()
        self.starts[0].ack("1")
        self.shutdown.hurry()
        self.finish()
        self.assertTrue(client.is_held)
        client.leave()
