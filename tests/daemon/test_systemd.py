"""What the service manager is told, and when: a real socket, and a reactor in memory."""

import os
import socket
import tempfile
from pathlib import Path
from select import POLLIN, poll
from typing import Any, cast
from unittest import mock

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy import tap
from jobproxy.daemon.systemd import Notifier
from jobproxy.util.deadline import TURNS
from tests.app.test_options import NEEDED, Reactor
from tests.support.proxy import Client


class Manager:
    """What listens on ``$NOTIFY_SOCKET``.

    :param address: a path, or an abstract name that starts with a null character.
    """

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind(address)
        self.variable = address.replace("\0", "@")

    def receive(self) -> list[dict[str, str]]:
        """Return what was told since the last look."""
        messages = []
        while self.has_message():
            messages.append(self.receive_one())
        return messages

    def receive_one(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().split("\n"))

    def has_message(self, seconds: float = 0.0) -> bool:
        """Whether something was told, or is within so many seconds."""
        poller = poll()
        poller.register(self.socket, POLLIN)
        return bool(poller.poll(max(0.0, seconds) * 1000))


class NotifyTestCase(SynchronousTestCase):
    """There is a manager, which has a socket in a folder of its own."""

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

    def test_message(self) -> None:
        """All that is told at once is one message."""
        self.make_notifier().tell(READY="1", STATUS="0 clients held")
        self.assertEqual(self.manager.receive(), [{"READY": "1", "STATUS": "0 clients held"}])

    def test_abstract(self) -> None:
        """The manager's socket may be in no folder."""
        manager = self.make_manager(f"\0jobproxy-test-{os.getpid()}")
        self.make_notifier(NOTIFY_SOCKET=manager.variable).tell(READY="1")
        self.assertEqual(manager.receive(), [{"READY": "1"}])

    def test_no_manager(self) -> None:
        """Without a manager that can be understood nobody is told, and no sign of life wanted."""
        for address in ("", "vsock:2:1234", "relative"):
            notifier = self.make_notifier(NOTIFY_SOCKET=address, WATCHDOG_USEC="15000000")
            notifier.tell(READY="1")
            self.assertIsNone(notifier.interval)

    def test_lost_manager(self) -> None:
        """A manager that cannot be told is no trouble."""
        for address in ("/nonexistent/notify", "/" + "x" * 200, "@" + "x" * 200):
            self.make_notifier(NOTIFY_SOCKET=address).tell(READY="1")

    def test_deaf_manager(self) -> None:
        """A manager that does not read is not waited for, and hears the rest once it does."""
        notifier = self.make_notifier()
        for _ in range(10_000):
            notifier.tell(WATCHDOG="1")
        self.assertLess(len(self.manager.receive()), 10_000)
        notifier.tell(STOPPING="1")
        self.assertEqual(self.manager.receive(), [{"STOPPING": "1"}])

    def test_no_descriptors(self) -> None:
        """L5: who has no descriptor left still gives signs of life."""
        notifier = self.make_notifier()
        with mock.patch.object(socket, "socket", side_effect=OSError(24, "EMFILE")):
            notifier.tell(WATCHDOG="1")
            self.make_notifier().tell(READY="1")
        self.assertEqual(self.manager.receive(), [{"WATCHDOG": "1"}])

    def test_interval(self) -> None:
        """T4: signs of life are given twice in the time allowed, by whom they are wanted of."""
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


class PulseTests(NotifyTestCase):
    """What a whole proxy tells."""

    def start(self, **environment: str) -> tuple[Any, Reactor]:
        """Return a proxy whose services have been started, and its reactor, which is still."""
        given = {"NOTIFY_SOCKET": self.manager.variable, **environment}
        options = tap.Options()
        reactor = Reactor()
        with mock.patch.dict(os.environ, given, clear=True):
            options.parseOptions([*NEEDED, "--drain-timeout=20"])
            service = tap.makeService(options, reactor)
        service.privilegedStartService()
        service.startService()
        return service, reactor

    def stop(self, service: Any, reactor: MemoryReactorClock) -> None:
        stopping = service.stopService()
        reactor.pump([*TURNS * [0], 20, *TURNS * [0], 5])
        self.successResultOf(stopping)

    def hold(self, reactor: Reactor) -> Client:
        """Return a client that is held."""
        client = Client(cast(Any, reactor.tcpServers[0][1])).request()
        self.assertTrue(client.is_held)
        return client

    def test_ready(self) -> None:
        """G5: that the proxy is ready is told once it serves, and not before."""
        service, reactor = self.start()
        self.assertEqual(len(reactor.tcpServers), 1)
        self.assertEqual(self.manager.receive(), [])
        reactor.run()
        self.assertEqual(self.manager.receive(), [{"READY": "1", "STATUS": "0 clients held"}])
        self.stop(service, reactor)

    def test_beats(self) -> None:
        """T4: as long as the loop turns, it tells so, and how many clients it holds."""
        service, reactor = self.start(WATCHDOG_USEC="15000000")
        reactor.run()
        self.manager.receive()
        client = self.hold(reactor)
        reactor.advance(7.4)
        self.assertEqual(self.manager.receive(), [])
        reactor.advance(0.1)
        beat = {"WATCHDOG": "1", "STATUS": "1 clients held"}
        self.assertEqual(self.manager.receive(), [beat])
        reactor.pump([7.5])
        self.assertEqual(self.manager.receive(), [beat])
        client.leave()
        self.stop(service, reactor)

    def test_no_watchdog(self) -> None:
        """A manager that watches nothing gets no signs of life."""
        service, reactor = self.start()
        reactor.run()
        self.manager.receive()
        reactor.pump([5] * 12)
        self.assertEqual(self.manager.receive(), [])
        self.stop(service, reactor)

    def test_stopping(self) -> None:
        """G1: the manager is told at once that the proxy drains, and that the loop still turns."""
        service, reactor = self.start(WATCHDOG_USEC="15000000")
        reactor.run()
        self.manager.receive()
        client = self.hold(reactor)
        stopping = service.stopService()
        told = {"STOPPING": "1", "STATUS": "draining, 1 clients held"}
        self.assertEqual(self.manager.receive(), [told])
        reactor.pump([*TURNS * [0], 7.5, 7.5])
        beat = {"WATCHDOG": "1", "STATUS": "1 clients held"}
        self.assertEqual(self.manager.receive(), [beat, beat])
        reactor.pump([5, *TURNS * [0], 5])
        self.successResultOf(stopping)
        client.leave()
        reactor.pump([7.5] * 4)
        self.assertEqual(self.manager.receive(), [])
