"""What the text of an option means; an error says what it must be, behind the option's name."""

import math
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from twisted.internet.endpoints import serverFromString

MAX_PORT = 65_535
#: Bytes of a host name at most.
MAX_NAME = 253

#: Not all that Python takes: no underscores, exponents or digits of other scripts.
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]+")
#: Labels must neither begin nor end with a hyphen. Two in the third place are for names in IDNA.
_LABEL = r"(?!..--(?<!xn--))[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.IGNORECASE)
_PATH = re.compile(r"[A-Za-z0-9._~/-]*")
_PORT = re.compile(r"(?:haproxy:)?(?:tcp6?|ssl):(?:port=)?(-?[0-9]+)(?::.*)?")
_SOCKET = re.compile(r"unix:(?:address=)?((?:[^:\\]|\\.)+)(?::.*)?")
_SWITCH = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}

Choice = TypeVar("Choice", bound=Enum)


def read_seconds(text: str) -> float:
    """Parse a duration in seconds, above 0."""
    seconds = _read_number(text)
    if not seconds > 0:
        raise ValueError(f"must be a number of seconds above 0, not {text!r}")
    return seconds


def read_delay(text: str) -> float:
    """Parse a duration in seconds, 0 or more."""
    seconds = _read_number(text)
    if not seconds >= 0:
        raise ValueError(f"must be a number of seconds, 0 or more, not {text!r}")
    return seconds


def read_count(text: str) -> int:
    """Parse an integer above 0."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0):
        raise ValueError(f"must be a whole number above 0, not {text!r}")
    return int(text)


def read_switch(text: str) -> bool:
    """Parse yes or no."""
    if text.lower() not in _SWITCH:
        raise ValueError(f"must be yes or no, not {text!r}")
    return _SWITCH[text.lower()]


def reader_of(kind: type[Choice]) -> Callable[[str], Choice]:
    """Return a parser of the values of an enumeration."""

    def read(text: str) -> Choice:
        try:
            return kind(text)
        except ValueError:
            words = ", ".join(choice.value for choice in kind)
            raise ValueError(f"must be one of {words}, not {text!r}") from None

    return read


def read_url(text: str) -> str:
    """Parse an absolute http or https URL without query, fragment or credentials."""
    wrong = ValueError(f"must be a URL like http://host:port/path, not {text!r}")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise wrong from None
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise wrong
    if url.query or url.fragment or "?" in text or "#" in text:
        raise ValueError(f"must have no query and no fragment, not {text!r}")
    if not _HOST.fullmatch(url.netloc):
        raise wrong
    return text


def read_server_url(text: str) -> str:
    """Parse a URL of a server that Twisted can connect to; as :func:`read_url`, with a query."""
    base, _, query = text.partition("?")
    if "#" in text or not query.isascii() or not query.isprintable() or " " in query:
        raise ValueError(f"must have no fragment and no spaces, not {text!r}")
    host = urlsplit(read_url(base)).hostname or ""
    is_address = ":" in host or not host.strip("0123456789.")
    if not is_address and (len(host) > MAX_NAME or not _NAME.fullmatch(host)):
        raise ValueError(
            "must have a host name of letters, digits and hyphens, with at most 63 in each part "
            f"(RFC 1123, section 2.1), not {host!r}; give the server another name, or use its "
            "address"
        )
    return text


def read_base_url(text: str) -> str:
    """Parse the base of URLs that the daemon serves; its path has unreserved characters only.

    :return: the URL without a trailing slash.
    """
    url = urlsplit(read_url(text))
    if not _PATH.fullmatch(url.path) or "//" in url.path:
        raise ValueError(f"must have a path of letters, digits and ._~-/ only, not {text!r}")
    return text.rstrip("/")


def read_endpoints(text: str) -> list[str]:
    """Parse server endpoint descriptions (strports) that are separated by spaces."""
    return list(_check_endpoints(text))


def read_origins(text: str) -> list[str]:
    """Parse origins of web pages (RFC 6454, section 6.2) that are separated by spaces."""
    origins = text.split()
    for origin in origins:
        url = urlsplit(origin)
        if f"{url.scheme}://{url.netloc}" != origin.lower() or not _HOST.fullmatch(url.netloc):
            raise ValueError(f"must be an origin like https://app.example, not {origin!r}")
    return [origin.lower() for origin in origins]


def _check_endpoints(text: str) -> Iterator[str]:
    for description in text.split():
        try:
            # This only parses the description; the reactor is not used before listen().
            serverFromString(cast(Any, None), description)
        except (ValueError, TypeError, LookupError, OSError) as error:
            raise ValueError(
                f"must be an endpoint like tcp:8080:interface=127.0.0.1, not {description!r}"
            ) from error
        _check_place(description)
        yield description


def _check_place(description: str) -> None:
    """Check what would otherwise only be found out when the endpoint listens."""
    port, path = _PORT.fullmatch(description), _SOCKET.fullmatch(description)
    if port and not 0 <= int(port[1]) <= MAX_PORT:
        raise ValueError(f"must have a port of 0 to {MAX_PORT}, not {description!r}")
    if path and not Path(path[1].replace("\\", "")).parent.is_dir():
        raise ValueError(f"must have a socket in a folder that exists, not {description!r}")


def _read_number(text: str) -> float:
    """Parse a number without a sign, as people write it; NaN if it is none, or far too large."""
    return float(text) if _NUMBER.fullmatch(text) else math.nan
