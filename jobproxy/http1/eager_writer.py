"""Sends bytes at once if the kernel accepts them, and sets socket options.

A transport waits for the reactor before it writes to its socket, which costs two changes of the
watched descriptors and one iteration of the loop. A socket with nothing pending is nearly always
writable, so that a direct write is tried first.
"""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import ISSLTransport, ITCPTransport

Send = Callable[[bytes], int]

#: A peer that has vanished is detected by probes: after 30 s, 10 s apart, 3 of them lost.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


def set_socket_options(transport: Any) -> None:
    """Send small writes at once, and let the kernel detect that the peer has vanished.

    A Unix socket has no such options, although its transport says that it is TCP.
    """
    is_tls = ISSLTransport.providedBy(transport)
    tcp = cast(Any, transport).transport if is_tls else transport
    handle = tcp.getHandle()
    if handle.family == socket.AF_UNIX:
        return
    tcp.setTcpNoDelay(True)
    tcp.setTcpKeepAlive(True)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):
            handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def find_send(transport: Any) -> Send | None:
    """Return the function that sends bytes at once, if the transport is TCP without TLS."""
    is_plain = ITCPTransport.providedBy(transport) and not ISSLTransport.providedBy(transport)
    return cast(Any, transport).getHandle().send if is_plain else None


class EagerWriter:
    """A protocol that writes to its transport only by :meth:`_write`.

    :ivar _send: the result of :func:`find_send`, until the kernel does not accept all bytes; from
        then on the transport writes all bytes, which keeps their order.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        transport: Any
        _send: Send | None

    def _fall_back(self) -> None:
        """Called once, when the transport begins to write all bytes."""

    def _write(self, data: bytes) -> None:
        if self._send is not None:
            try:
                sent = self._send(data)
            except OSError:
                # Not writable now, or lost; the transport handles both.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
            self._send = None  # type: ignore[misc]
            self._fall_back()
        self.transport.write(data)
