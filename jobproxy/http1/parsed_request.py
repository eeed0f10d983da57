"""A request as its parser hands it over."""

from attrs import frozen


@frozen
class ParsedRequest:
    """A complete request.

    :param target: as in the request line.
    :param headers: names in lower case, in the order of the request, without trailers.
    :param body: without the framing of its chunks.
    :param keep_alive: whether the client allows another request on the connection.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    keep_alive: bool

    @property
    def size(self) -> int:
        """The approximate number of bytes that were received for it."""
        lines = sum(len(name) + len(value) + 4 for name, value in self.headers)
        return len(self.method) + len(self.target) + 14 + lines + len(self.body)
