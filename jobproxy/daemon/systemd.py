"""What the service manager is told of the process: the protocol of ``sd_notify(3)``."""

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
    """Tells the service manager how the process is, or nobody if there is none.

    It neither fails nor blocks: what the manager does not take is not told.

    :param address: a path, or an abstract name that starts with ``@``.
    :ivar interval: seconds between two signs of life; :data:`None` if none are wanted.
    """

    _address: str | None = None
    interval: float | None = None
    # Open from the start, so that a process without free descriptors is not killed for silence.
    _socket: socket.socket | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        if self._address is not None:
            with suppress(OSError):
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                self._socket.setblocking(False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int) -> "Notifier":
        """Return the notifier that the environment asks for.

        :param pid: that of this process; signs of life may be wanted of another alone.
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

    def tell(self, **fields: str) -> None:
        """Send the fields in one message."""
        if self._socket is not None:
            assert self._address is not None
            address = self._address
            if address.startswith("@"):
                address = "\0" + address[1:]
            message = "\n".join(f"{name}={value}" for name, value in fields.items())
            with suppress(OSError):
                self._socket.sendto(message.encode(), address)

    def close(self) -> None:
        """Tell nothing any more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Pulse(Service):
    """Tells that the process is ready once its loop runs, and then that the loop still turns.

    :param when_running: has a function called once the loop runs, and so all ports listen.
    :param held: returns how many clients are held.
    """

    def __init__(
        self,
        clock: IReactorTime,
        notifier: Notifier,
        when_running: Callable[[Callable[[], object]], object],
        held: Callable[[], int],
    ) -> None:
        self._notifier = notifier
        self._when_running = when_running
        self._held = held
        self._beats = LoopingCall(self._beat)
        self._beats.clock = clock

    def startService(self) -> None:
        super().startService()
        self._when_running(self._begin)

    def stopService(self) -> Any:
        if self._beats.running:
            self._beats.stop()
        self._notifier.close()
        return super().stopService()

    def _begin(self) -> None:
        self._notifier.tell(READY="1", STATUS=self._describe())
        if self.running and self._notifier.interval is not None:
            self._beats.start(self._notifier.interval, now=False)

    def _beat(self) -> None:
        self._notifier.tell(WATCHDOG="1", STATUS=self._describe())

    def _describe(self) -> str:
        return f"{self._held()} clients held"
