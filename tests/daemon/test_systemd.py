"""Notifications to the service manager: a real socket, and a reactor in memory."""

import os
import socket
import tempfile
from pathlib import Path
from typing import Any, cast
from unittest import mock

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy import tap
from jobproxy.daemon.systemd import Notifier
from jobproxy.util.deadline import TURNS
from tests.support.clients import Client
from tests.support.memory_reactor import MemoryReactor
from tests.support.options import REQUIRED
from tests.support.service_manager import Manager


class NotifyTestCase(SynchronousTestCase):
    """A service manager with a socket in a temporary folder."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.manager = self.make_manager(str(Path(folder.name) / "notify"))

    def make_manager(self, address: str) -> Manager:
        manager = Manager(address)
        self.addCleanup(manager.socket.close)
        return manager

    def make_notifier(self, **environment: str) -> Notifier:
        given = {"NOTIFY_SOCKET": self.manager.variable, **environment}
        notifier = Notifier.from_environment(given, 123)
        self.addCleanup(notifier.close)
        return notifier


class NotifierTests(NotifyTestCase):
    """The protocol."""

    def test_fields_are_sent_in_one_message(self) -> None:
        """All fields of a notification are in one message."""
        self.make_notifier().notify(READY="1", STATUS="0 clients held")
        self.assertEqual(self.manager.receive(), [{"READY": "1", "STATUS": "0 clients held"}])

    def test_abstract_socket_is_understood(self) -> None:
        """The manager's socket may have an abstract name."""
        manager = self.make_manager(f"\0jobproxy-test-{os.getpid()}")
        self.make_notifier(NOTIFY_SOCKET=manager.variable).notify(READY="1")
        self.assertEqual(manager.receive(), [{"READY": "1"}])

    def test_nothing_is_sent_without_a_usable_address(self) -> None:
        """Without an address that is understood nothing is sent, and no pings are expected."""
        for address in ("", "vsock:2:1234", "relative"):
            notifier = self.make_notifier(NOTIFY_SOCKET=address, WATCHDOG_USEC="15000000")
            notifier.notify(READY="1")
            self.assertIsNone(notifier.interval)

    def test_unreachable_manager_is_ignored(self) -> None:
        """A manager that cannot be reached is no error."""
        for address in ("/nonexistent/notify", "/" + "x" * 200, "@" + "x" * 200):
            self.make_notifier(NOTIFY_SOCKET=address).notify(READY="1")

    def test_full_socket_does_not_block(self) -> None:
        """A manager that does not read blocks nothing, and gets later messages once it reads."""
        notifier = self.make_notifier()
        for _ in range(10_000):
            notifier.notify(WATCHDOG="1")
        self.assertLess(len(self.manager.receive()), 10_000)
        notifier.notify(STOPPING="1")
        self.assertEqual(self.manager.receive(), [{"STOPPING": "1"}])

    def test_pings_go_on_without_free_descriptors(self) -> None:
        """L5: a process without free file descriptors still sends its pings."""
        notifier = self.make_notifier()
        with mock.patch.object(socket, "socket", side_effect=OSError(24, "EMFILE")):
            notifier.notify(WATCHDOG="1")
            self.make_notifier().notify(READY="1")
        self.assertEqual(self.manager.receive(), [{"WATCHDOG": "1"}])

    def test_ping_interval_is_half_of_the_watchdog_time(self) -> None:
        """T4: pings are sent twice in the watchdog time, if they are expected of this process."""
        for limit, pid, interval in (
            ("15000000", "123", 7.5),
            ("15000000", "124", None),
            ("0", "123", None),
            ("-1", "123", None),
            ("soon", "123", None),
            ("", "123", None),
        ):
            notifier = self.make_notifier(WATCHDOG_USEC=limit, WATCHDOG_PID=pid)
            self.assertEqual(notifier.interval, interval)
        self.assertEqual(self.make_notifier(WATCHDOG_USEC="3000000").interval, 1.5)
        self.assertIsNone(self.make_notifier().interval)


class HeartbeatTests(NotifyTestCase):
    """The notifications of a whole proxy."""

    def start(self, **environment: str) -> tuple[Any, MemoryReactor]:
        """Return a proxy whose services have been started, and its reactor, which does not run
        yet.
        """
        given = {"NOTIFY_SOCKET": self.manager.variable, **environment}
        options = tap.Options()
        reactor = MemoryReactor()
        with mock.patch.dict(os.environ, given, clear=True):
            options.parseOptions([*REQUIRED, "--drain-timeout=20"])
            service = tap.makeService(options, reactor)
        service.privilegedStartService()
        service.startService()
        return service, reactor

    def stop(self, service: Any, reactor: MemoryReactorClock) -> None:
        stopping = service.stopService()
        reactor.pump([*TURNS * [0], 20, *TURNS * [0], 5])
        self.successResultOf(stopping)

    def hold(self, reactor: MemoryReactor) -> Client:
        """Return a held client."""
        client = Client(cast(Any, reactor.tcpServers[0][1])).request()
        self.assertTrue(client.is_held)
        return client

    def test_ready_is_sent_once_the_reactor_runs(self) -> None:
        """G5: READY is sent once the proxy serves, and not before."""
        service, reactor = self.start()
        self.assertEqual(len(reactor.tcpServers), 1)
        self.assertEqual(self.manager.receive(), [])
        reactor.run()
        self.assertEqual(self.manager.receive(), [{"READY": "1", "STATUS": "0 clients held"}])
        self.stop(service, reactor)

    def test_pings_are_sent_while_the_reactor_runs(self) -> None:
        """T4: while the reactor runs, pings are sent with the number of held clients."""
        service, reactor = self.start(WATCHDOG_USEC="15000000")
        reactor.run()
        self.manager.receive()
        client = self.hold(reactor)
        reactor.advance(7.4)
        self.assertEqual(self.manager.receive(), [])
        reactor.advance(0.1)
        ping = {"WATCHDOG": "1", "STATUS": "1 clients held"}
        self.assertEqual(self.manager.receive(), [ping])
        reactor.pump([7.5])
        self.assertEqual(self.manager.receive(), [ping])
        client.leave()
        self.stop(service, reactor)

    def test_no_pings_without_a_watchdog(self) -> None:
        """A manager without a watchdog gets no pings."""
        service, reactor = self.start()
        reactor.run()
        self.manager.receive()
        reactor.pump([5] * 12)
        self.assertEqual(self.manager.receive(), [])
        self.stop(service, reactor)

    def test_stopping_is_sent_at_once_and_pings_go_on(self) -> None:
        """G1: STOPPING is sent when draining begins, and pings go on until its end."""
        service, reactor = self.start(WATCHDOG_USEC="15000000")
        reactor.run()
        self.manager.receive()
        client = self.hold(reactor)
        stopping = service.stopService()
        stopping_message = {"STOPPING": "1", "STATUS": "draining, 1 clients held"}
        self.assertEqual(self.manager.receive(), [stopping_message])
        reactor.pump([*TURNS * [0], 7.5, 7.5])
        ping = {"WATCHDOG": "1", "STATUS": "1 clients held"}
        self.assertEqual(self.manager.receive(), [ping, ping])
        reactor.pump([5, *TURNS * [0], 5])
        self.successResultOf(stopping)
        client.leave()
        reactor.pump([7.5] * 4)
        self.assertEqual(self.manager.receive(), [])

    def test_stopping_is_sent_before_the_delay(self) -> None:
        """G16: STOPPING is sent when the delay begins, and again when draining does."""
        service, reactor = self.start(JOBPROXY_DRAIN_DELAY="5")
        reactor.run()
        self.manager.receive()
        client = self.hold(reactor)
        stopping = service.stopService()
        status = "not ready, drains in 5 s, 1 clients held"
        self.assertEqual(self.manager.receive(), [{"STOPPING": "1", "STATUS": status}])
        client.leave()
        reactor.advance(5)
        status = "draining, 0 clients held"
        self.assertEqual(self.manager.receive(), [{"STOPPING": "1", "STATUS": status}])
        reactor.pump([*TURNS * [0], *TURNS * [0], 5])
        self.successResultOf(stopping)
