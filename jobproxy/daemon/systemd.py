"""Notifications to the service manager: the protocol of ``sd_notify(3)``."""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall


@define(eq=False)
class Notifier:
    """Sends notifications to the service manager, if there is one.

    It neither fails nor blocks: a notification that cannot be sent at once is dropped.

    :param address: a path, or an abstract name that starts with ``@``; :data:`None`: no manager.
    :ivar interval: seconds between two keep-alive pings; :data:`None`: none are expected.
    """

    _address: str | None = None
    interval: float | None = None
    # Opened at once, so that a process without free descriptors can still send its pings.
    _socket: socket.socket | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self._address is not None:
            with suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int) -> "Notifier":
        """Return the notifier for ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``.

        :param pid: of this process; pings may be expected of another one.
        """
        address = environment.get("NOTIFY_SOCKET", "")
        if address[:1] not in ("/", "@"):
            return cls()
        interval = None
        if environment.get("WATCHDOG_PID", str(pid)) == str(pid):
            limit = environment.get("WATCHDOG_USEC", "")
            if limit.isascii() and limit.isdigit() and int(limit) > 0:
                interval = int(limit) / 1e6 / 2
        return cls(address, interval)

    def notify(self, **fields: str) -> None:
        """Send some fields, as ``READY="1"``, in one message."""
        if self._socket is not None:
            assert self._address is not None
            address = self._address
            if address.startswith("@"):
                address = "\0" + address[1:]
            message = "\n".join(f"{name}={value}" for name, value in fields.items())
            with suppress(OSError):
                self._socket.sendto(message.encode(), address)

    def close(self) -> None:
        """Close the socket; later notifications are dropped."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Heartbeat(Service):
    """Notifies that the process is ready, then pings as long as its reactor runs.

    :param call_when_running: calls a function once the reactor runs, when all ports are open.
    :param count_held: returns the number of held clients.
    """

    def __init__(
        self,
        clock: IReactorTime,
        notifier: Notifier,
        call_when_running: Callable[[Callable[[], object]], object],
        count_held: Callable[[], int],
    ) -> None:
        self._notifier = notifier
        self._call_when_running = call_when_running
        self._count_held = count_held
        self._pings = LoopingCall(self._ping)
        self._pings.clock = clock

    def startService(self) -> None:
        super().startService()
        self._call_when_running(self._begin)

    def stopService(self) -> Any:
        if self._pings.running:
            self._pings.stop()
        self._notifier.close()
        return super().stopService()

    def _begin(self) -> None:
        self._notifier.notify(READY="1", STATUS=self._describe())
        if self.running and self._notifier.interval is not None:
            self._pings.start(self._notifier.interval, now=False)

    def _ping(self) -> None:
        self._notifier.notify(WATCHDOG="1", STATUS=self._describe())

    def _describe(self) -> str:
        return f"{self._count_held()} clients held"
