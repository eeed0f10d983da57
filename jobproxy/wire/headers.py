"""Headers, as frozen values, and what can be asked for one."""

from typing import Protocol

Headers = tuple[tuple[bytes, bytes], ...]


class HeaderSource(Protocol):
    """A request or a response."""

    def find_header(self, name: bytes) -> bytes | None:
        """Return the value of a header, if there is one.

        :param name: in lower case.
        """
