"""Clients over real sockets, which send now and look for the response later."""

import json
import socket
from http.client import HTTPMessage, HTTPResponse
from select import POLLIN, poll
from typing import Any

from attrs import frozen

from tests.support.waiting import DEADLINE


@frozen
class Response:
    """An HTTP response, whole."""

    status: int
    headers: HTTPMessage
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)

    @property
    def verdict(self) -> tuple[int, str, str]:
        """The status, the type and the ``started`` of a problem."""
        return self.status, self.document["type"], self.document["started"]


class Client:
    """One connection, whose responses need not be waited for.

    :param end: the client's end of it, or a port of this machine to connect to.
    """

    def __init__(self, end: int | socket.socket) -> None:
        if isinstance(end, int):
            end = socket.create_connection(("127.0.0.1", end), timeout=DEADLINE)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = end

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> None:
        """Send a request."""
        lines = [f"{method} {path} HTTP/1.1", "Host: proxy", f"Content-Length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.write("\r\n".join([*lines, "", ""]).encode() + body)

    def send_job(self, number: int, account: str = "example", **headers: str) -> None:
        job = {"account": account, "number": number}
        self.ask("POST", "/proxy", json.dumps(job).encode(), **headers)

    def call_back(self, url: str, number: int) -> None:
        """Send the result of a job to its callback URL, to whose port this connection must be."""
        self.ask("POST", "/" + url.split("/", 3)[3], result_of(number))

    def receive(self) -> Response:
        """Wait for a response.

        :raises ConnectionError: if the connection ends instead.
        """
        with HTTPResponse(self._socket) as response:
            response.begin()
            body = response.read()
        return Response(response.status, response.headers, body)

    def has_response(self) -> bool:
        """Whether there is something to read, or the end."""
        poller = poll()
        poller.register(self._socket, POLLIN)
        return bool(poller.poll(0))

    def is_ended(self) -> bool:
        """Wait for the connection's end.

        :raises ConnectionError: if it was reset.
        """
        return self._socket.recv(1) == b""


def request(url: str, body: bytes = b"", method: str = "GET") -> Response:
    """Send one request on a connection of its own, and return the response."""
    origin, slash, path = url.removeprefix("http://").partition("/")
    with Client(int(origin.rpartition(":")[2])) as client:
        client.ask(method, slash + path, body, Connection="close")
        return client.receive()


def result_of(number: int) -> bytes:
    """Return the result of a job, which is like no other's and oddly spaced."""
    return b'{ "id":"%x","state":"completed",\t"proof":"%040X"}\n' % (number, number**9)


#: A result that no buffer of a socket takes whole.
BIG = b'{"state":"completed","proof":"%b"}' % (b"E8" * 5 * 2**20)
