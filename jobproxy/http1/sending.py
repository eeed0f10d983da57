"""Sending at once what the kernel takes at once."""

from typing import Any

from twisted.internet.interfaces import ISSLTransport, ITCPTransport


class Sender:
    """Writes to one transport.

    A write to a transport waits for the reactor to say that its socket can be written to, which
    takes two changes of what the reactor watches and a round of its loop. A socket that nothing
    waits for can nearly always be written to, so we ask it first; only what it does not take goes
    the usual way, and so does everything after it.

    :param transport: of any kind; only plain TCP is written to directly.
    """

    __slots__ = ("_send", "_write")

    def __init__(self, transport: Any) -> None:
        self._write = transport.write
        is_plain = ITCPTransport.providedBy(transport) and not ISSLTransport.providedBy(transport)
        self._send = transport.getHandle().send if is_plain else None

    def write(self, data: bytes) -> None:
        """Send, now as far as that is possible."""
        if self._send is not None:
            try:
                sent = self._send(data)
            except OSError:
                # Not writable now, or lost: the transport waits for the one and tells of the other.
                sent = 0
            if sent == len(data):
                return
            data = data[sent:]
            self._send = None
        self._write(data)
