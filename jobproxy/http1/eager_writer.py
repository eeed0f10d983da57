"""Sending at once what the kernel takes at once, and options of the sockets.

A write to a transport waits for the reactor to say that its socket can be written to, which takes
two changes of what the reactor watches and a round of its loop. A socket that nothing waits for can
nearly always be written to, so it is asked first.
"""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import ISSLTransport, ITCPTransport

Send = Callable[[bytes], int]

#: When a peer that vanished without a word is given up: probes after 30 s, 10 s apart, 3 lost.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))


def set_socket_options(transport: Any) -> None:
    """Send small writes at once, and have the kernel notice that the peer is not there.

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
    """Return what sends bytes at once, if the transport is plain TCP."""
    is_plain = ITCPTransport.providedBy(transport) and not ISSLTransport.providedBy(transport)
    return cast(Any, transport).getHandle().send if is_plain else None


class EagerWriter:
    """A protocol whose transport is written to by :meth:`_write` alone.

    :ivar _send: what :func:`find_send` says, until the kernel does not take all; from then on
        everything goes the transport's way, and so stays in order.
    """

    __slots__ = ()

    if TYPE_CHECKING:
        transport: Any
        _send: Send | None

    def _fall_back(self) -> None:
        """Called once, when writes begin to go the transport's way."""

    def _write(self, data: bytes) -> None:
        if self._send is not None:
            try:
                sent = self._send(data)
            except OSError:
                # Not writable now, or lost: the transport waits for the one and reports the other.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
            self._send = None  # type: ignore[misc]
            self._fall_back()
        self.transport.write(data)
