"""A job server over TLS 1.2 and 1.3 whose handshakes fail, and whose records are broken."""

import asyncio
import random
import ssl
from collections import Counter
from contextlib import suppress
from pathlib import Path

from attrs import define, field
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from keyed_server import KeyedServer, make_ack
from wire import Messages

from tests.support.identities import ADDRESS, Identity, authority, issue

#: The fraction of connections whose handshake fails, and of start requests with a broken response.
HANDSHAKES = 0.06
RECORDS = 0.15
#: The fraction of start requests with a broken response whose job is started.
RUNS = 0.8

#: A fatal alert: handshake_failure, not encrypted (RFC 5246, section 7.2).
ALERT = bytes.fromhex("15030300020228")
IN_HANDSHAKE = (
    "closed",
    "garbage",
    "plain HTTP",
    "alert",
    "stalled",
    "half and closed",
    "flipped",
    "untrusted",
    "client certificate",
)
IN_RECORDS = (
    "garbage",
    "bad MAC",
    "flipped",
    "alert",
    "too long",
    "cut",
    "reset",
    "second record broken",
    "garbage after the ack",
    "garbage before the request is read",
)


class _Ended(Exception):
    """The connection ends here."""


def make_context(folder: Path, identity: Identity, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return what a server of one version of TLS needs."""
    path = folder / "server.pem"
    key = identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(key + identity.pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.load_cert_chain(path)
    path.unlink()
    return context


@define(eq=False)
class Contexts:
    """The TLS contexts of one version: as it should be, and such that a handshake fails."""

    good: ssl.SSLContext
    untrusted: ssl.SSLContext
    demanding: ssl.SSLContext


def make_contexts(folder: Path) -> list[Contexts]:
    """Return the contexts of TLS 1.2 and 1.3, with the authority in ``authority.pem``."""
    (folder / "authority.pem").write_bytes(authority().pem)
    good = issue(authority(), ADDRESS)
    stranger = issue(None, ADDRESS)
    found = []
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        demanding = make_context(folder, good, version)
        demanding.verify_mode = ssl.CERT_REQUIRED
        found.append(
            Contexts(
                make_context(folder, good, version),
                make_context(folder, stranger, version),
                demanding,
            )
        )
    return found


@define(eq=False)
class BrokenTLS:
    """Serves start requests over TLS for a job server.

    :ivar faults: the numbers of faults, by version, phase and kind.
    """

    server: KeyedServer
    contexts: list[Contexts]
    faults: Counter[str] = field(factory=Counter)
    _random: random.Random = field(factory=lambda: random.Random(1))

    async def listen(self) -> asyncio.AbstractServer:
        return await asyncio.start_server(self._serve, "127.0.0.1", self.server.port, backlog=4096)

    def _choose(self, rate: float, kinds: tuple[str, ...]) -> str:
        return self._random.choice(kinds) if self._random.random() < rate else ""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self._random.randrange(2)
        fault = self._choose(HANDSHAKES, IN_HANDSHAKE)
        contexts = self.contexts[number]
        context = {"untrusted": contexts.untrusted, "client certificate": contexts.demanding}.get(
            fault, contexts.good
        )
        connection = Connection(reader, writer, context)
        version = f"TLS 1.{number + 2}"
        with suppress(asyncio.CancelledError, OSError, _Ended, ssl.SSLError):
            try:
                if fault:
                    self.faults[f"{version} handshake {fault}"] += 1
                await connection.shake(fault)
                await self._talk(connection, version)
            finally:
                writer.transport.abort()

    async def _talk(self, connection: "Connection", version: str) -> None:
        messages = Messages()
        while True:
            fault = self._choose(RECORDS, IN_RECORDS)
            if fault:
                self.faults[f"{version} record {fault}"] += 1
            if fault == "garbage before the request is read":
                connection.write_raw(self._random.randbytes(300))
                await connection.end()
            requests: list[tuple[bytes, bytes]] = []
            while not requests:
                requests = messages.feed(await connection.read())
            for head, body in requests:
                start = self.server.read(head, body)
                if start is None:
                    raise _Ended
                if not fault or self._random.random() < RUNS:
                    self.server.run(start)
                await asyncio.sleep(self._random.random() * 0.05)
                await self._respond(connection, make_ack(start).response, fault)

    async def _respond(self, connection: "Connection", ack: bytes, fault: str) -> None:
        if fault == "reset":
            raise _Ended
        if fault == "second record broken":
            connection.write_raw(connection.encrypt(ack[:30]))
            ack = ack[30:]
        whole = connection.encrypt(ack)
        if not fault:
            connection.write_raw(whole)
            return
        noise = self._random.randbytes(64)
        broken = b"\x17\x03\x03\x00\x40" + noise
        data = {
            "garbage": noise,
            "bad MAC": broken,
            "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
            "second record broken": whole[:-1] + bytes([whole[-1] ^ 1]),
            "alert": ALERT,
            "too long": b"\x17\x03\x03\xff\xff" + noise,
            "cut": whole[:-10],
            "garbage after the ack": whole + noise,
        }
        connection.write_raw(data[fault])
        await connection.end()


@define(eq=False)
class Connection:
    """The server's end of a connection, whose bytes can be changed on their way."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _context: ssl.SSLContext
    _received: ssl.MemoryBIO = field(factory=ssl.MemoryBIO)
    _pending: ssl.MemoryBIO = field(factory=ssl.MemoryBIO)
    _tls: ssl.SSLObject = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tls = self._context.wrap_bio(self._received, self._pending, server_side=True)

    async def shake(self, fault: str) -> None:
        """Do the handshake, or a part of it."""
        is_first = True
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                is_done = False
            except ssl.SSLError:
                self.write_raw(self._pending.read())
                await self._writer.drain()
                raise
            else:
                is_done = True
            flight = self._pending.read()
            if flight and is_first:
                is_first = False
                flight = await self._break(fault, flight)
            self.write_raw(flight)
            if is_done:
                return
            self._received.write(await self._receive())

    async def _break(self, fault: str, flight: bytes) -> bytes:
        """Return the first bytes that the server sends, which may be broken."""
        middle = len(flight) // 2
        if fault == "closed":
            raise _Ended
        if fault == "stalled":
            await self.end(seconds=None)
        first = {
            "garbage": random.randbytes(300),
            "plain HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
            "alert": ALERT,
            "half and closed": flight[:middle],
        }
        if fault in first:
            self.write_raw(first[fault])
            await self.end()
        if fault == "flipped":
            return flight[:middle] + bytes([flight[middle] ^ 1]) + flight[middle + 1 :]
        return flight

    async def read(self) -> bytes:
        """Return some bytes of requests."""
        while True:
            try:
                data = self._tls.read(65_536)
            except ssl.SSLWantReadError:
                # Tickets of a new session are sent with what is written next.
                self.write_raw(self._pending.read())
                self._received.write(await self._receive())
            else:
                if not data:
                    raise _Ended
                return data

    def encrypt(self, data: bytes) -> bytes:
        """Return the records of some bytes."""
        self._tls.write(data)
        return self._pending.read()

    def write_raw(self, data: bytes) -> None:
        self._writer.write(data)

    async def end(self, seconds: float | None = 0.2) -> None:
        """Let the other side close the connection; close it after so many seconds."""
        self._writer.write(b"")
        await self._writer.drain()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._drop_all(), seconds)
        raise _Ended

    async def _drop_all(self) -> None:
        while await self._reader.read(65_536):
            pass

    async def _receive(self) -> bytes:
        data = await self._reader.read(65_536)
        if not data:
            raise _Ended
        return data
