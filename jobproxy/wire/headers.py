"""Headers, as frozen values, and what can be asked for one."""

import re
from typing import Protocol

Headers = tuple[tuple[bytes, bytes], ...]

#: Characters of a header's name (RFC 9110, section 5.6.2).
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: Headers that belong to a connection, or that jobproxy sets itself; in lower case.
OWN_HEADERS = frozenset(
    {
        "connection", "content-encoding", "content-length", "content-type", "expect", "host",
        "idempotency-key", "keep-alive", "prefer", "te", "traceparent", "tracestate", "trailer",
        "transfer-encoding", "upgrade", "x-request-id",
    }
)  # fmt: skip


class HeaderSource(Protocol):
    """A request or a response."""

    def find_header(self, name: bytes) -> bytes | None:
        """Return the value of a header, if there is one.

        :param name: in lower case.
        """
