"""What the kernel knows of the other end of a connection, although nothing is read from it."""

import select
import socket
import sys
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.runtime import platform

from jobproxy.http1.interfaces import HasLeft

#: Seconds between two looks at a client from which nothing is read.
LOOK_INTERVAL = 1.0
#: ``tcpi_bytes_acked`` of ``struct tcp_info`` (linux/tcp.h).
_BYTES_ACKED = slice(120, 128)


def count_acked(transport: Any) -> int | None:
    """Return how many bytes the client's end has taken so far; :data:`None`: that is not known."""
    handle = find_socket(transport)
    if handle is None or handle.family == socket.AF_UNIX or not platform.isLinux():
        return None
    try:
        info = handle.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED.stop)
    except OSError:
        return None
    return int.from_bytes(info[_BYTES_ACKED], sys.byteorder) if len(info) >= 128 else None


def has_left(transport: Any) -> bool:
    """Whether the client has closed the connection, although not all is read that it sent.

    That is known once all that it has sent is here: it does not come if there is no room for it.
    """
    handle = find_socket(transport)
    if handle is None or not hasattr(select, "POLLRDHUP"):
        return False
    poller = select.poll()
    poller.register(handle, select.POLLRDHUP)
    return bool(poller.poll(0))


def find_socket(transport: Any) -> socket.socket | None:
    """Return the socket of a transport, with TLS or without; one in memory has none."""
    get_handle = getattr(getattr(transport, "transport", transport), "getHandle", None)
    handle = None if get_handle is None else get_handle()
    return handle if isinstance(handle, socket.socket) else None


class Backlog:
    """Reads nothing more from a client that has sent far ahead, until it is to go on.

    :param has_left: is called at intervals, because the transport notices an end only as it reads.
    """

    __slots__ = ("_clock", "_has_left", "_timer", "_transport")

    def __init__(self, transport: Any, clock: IReactorTime, has_left: HasLeft) -> None:
        self._transport = transport
        self._clock = clock
        self._has_left = has_left
        transport.pauseProducing()
        self._timer: IDelayedCall = clock.callLater(LOOK_INTERVAL, self._look)

    def stop(self) -> None:
        """Look no more; the caller has to resume the transport."""
        if self._timer.active():
            self._timer.cancel()

    def _look(self) -> None:
        if self._has_left(self._transport):
            self._transport.abortConnection()
        else:
            self._timer = self._clock.callLater(LOOK_INTERVAL, self._look)
