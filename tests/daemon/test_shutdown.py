"""Daemon: the order in which it stops, and what signals do."""

import signal
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.daemon.shutdown import Daemon


class FakeShutdown:
    """Records its calls; the work is finished when the test says so."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.work: Deferred[None] = Deferred()
        self.flush_error: Exception | None = None

    async def finish_jobs(self) -> None:
        self.log.append("finish jobs")
        await self.work

    async def flush(self) -> None:
        self.log.append("flush")
        if self.flush_error is not None:
            raise self.flush_error

    def hurry(self) -> None:
        self.log.append("hurry")


class FakeService(Service):
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def stopService(self) -> None:
        super().stopService()
        self.log.append("stop services")


class DaemonTests(SynchronousTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.log: list[str] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.signal(number, self.note_signal)
            self.addCleanup(signal.signal, number, handler)
        self.shutdown = FakeShutdown(self.log)

    def note_signal(self, number: int, frame: Any) -> None:
        self.log.append("twisted's handler")

    def start(self, shutdown: FakeShutdown | None) -> Daemon:
        """Return a daemon that runs, with one service."""
        daemon = Daemon("test", shutdown, lambda call: call(), lambda call: call())
        FakeService(self.log).setServiceParent(daemon)
        daemon.startService()
        return daemon

    def test_services_stop_between_finish_jobs_and_flush(self) -> None:
        """Services run until the work is finished, and responses are flushed after their stop."""
        stopping = self.start(self.shutdown).stopService()
        self.assertEqual(self.log, ["finish jobs"])
        self.assertNoResult(stopping)
        self.shutdown.work.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.log, ["finish jobs", "stop services", "flush"])

    def test_services_stop_at_once_without_a_shutdown(self) -> None:
        """Without a shutdown the services are stopped at once, and no signal is handled."""
        daemon = self.start(None)
        signal.raise_signal(signal.SIGTERM)
        daemon.stopService()
        self.assertEqual(self.log, ["twisted's handler", "stop services"])

    def test_first_signal_stops_and_later_ones_hurry(self) -> None:
        """The first signal stops the daemon as Twisted does it; each later one hurries."""
        self.start(self.shutdown)
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        self.assertEqual(self.log, ["twisted's handler", "hurry", "hurry"])

    def test_only_a_second_signal_hurries(self) -> None:
        """G8: the first signal while the daemon stops for another reason does not hurry."""
        daemon = self.start(self.shutdown)
        stopping = daemon.stopService()
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(self.log, ["finish jobs"])
        signal.raise_signal(signal.SIGINT)
        self.shutdown.work.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.log, ["finish jobs", "hurry", "stop services", "flush"])

    def test_services_stop_when_finish_jobs_fails(self) -> None:
        """If the work cannot be finished, the failure is logged and the other steps follow."""
        stopping = self.start(self.shutdown).stopService()
        self.shutdown.work.errback(RuntimeError())
        self.successResultOf(stopping)
        self.assertEqual(self.log, ["finish jobs", "stop services", "flush"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(self.log[3:], ["twisted's handler"])

    def test_handlers_are_restored_when_flush_fails(self) -> None:
        """If responses cannot be flushed, the failure is logged and the handlers are restored."""
        self.shutdown.flush_error = OSError()
        stopping = self.start(self.shutdown).stopService()
        self.shutdown.work.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.log.clear()
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(self.log, ["twisted's handler"])

    def test_ignored_signals_stay_ignored(self) -> None:
        """SIGINT stays ignored if it was, as in the background of a script; SIGTERM then stops."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.start(self.shutdown)
        signal.raise_signal(signal.SIGINT)
        self.assertEqual(self.log, [])
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(self.log, ["twisted's handler"])

    def test_handlers_are_restored_after_the_stop(self) -> None:
        """Once the daemon has stopped, Twisted's own signal handlers are back."""
        stopping = self.start(self.shutdown).stopService()
        self.shutdown.work.callback(None)
        self.successResultOf(stopping)
        self.log.clear()
        signal.raise_signal(signal.SIGTERM)
        self.assertEqual(self.log, ["twisted's handler"])
