"""Endpoints that do not listen at once."""

from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from jobproxy.daemon.listening import ListeningService
from tests.support.callbacks import read_log


@implementer(IStreamServerEndpoint)
@define(eq=False)
class SlowEndpoint:
    """An endpoint that takes its time."""

    listening: Deferred[Any] = field(factory=Deferred)

    def listen(self, protocolFactory: Any) -> Deferred[Any]:  # noqa: N803 - the name of Twisted
        return self.listening


class Port:
    """A port that was opened in the end."""

    is_open = True

    def stopListening(self) -> None:
        self.is_open = False


class SlowTests(SynchronousTestCase):
    """G5: endpoints that do not listen at once, as those of plugins may not."""

    def setUp(self) -> None:
        super().setUp()
        self.endpoint = SlowEndpoint()
        self.service = ListeningService(self.endpoint, Factory(), Clock())
        self.service.privilegedStartService()
        self.service.startService()

    def test_port_that_opens_late_is_closed(self) -> None:
        """A port that opens late is closed when the service stops."""
        port = Port()
        self.endpoint.listening.callback(port)
        self.assertTrue(port.is_open)
        self.successResultOf(self.service.stopService())
        self.assertFalse(port.is_open)

    def test_port_that_does_not_open_is_given_up(self) -> None:
        """A service stops although its port has not opened."""
        self.successResultOf(self.service.stopService())
        self.assertTrue(self.endpoint.listening.called)
        self.flushLoggedErrors(CancelledError)

    def test_port_that_cannot_open_is_logged(self) -> None:
        """A port that cannot open is said in the log, and the service can stop."""
        with capturedLogs() as events:
            self.endpoint.listening.errback(CannotListenError("", 1, OSError("in use")))
        self.assertIn("cannot listen", read_log(events))
        self.flushLoggedErrors(CannotListenError)
        self.successResultOf(self.service.stopService())
