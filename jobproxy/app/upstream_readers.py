"""Reads the options that say how the job server is connected to."""

from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.internet.ssl import Certificate

from jobproxy.http1.tls import ClientIdentity, load_identity
from jobproxy.http1.tunnel import HttpProxy
from jobproxy.wire.headers import HEADER_NAME, OWN_HEADERS

#: Headers that a start request has from elsewhere, or not at all.
RESERVED = OWN_HEADERS | {"origin", "proxy-authorization", "proxy-connection"}


def read_authorities(text: str) -> list[Certificate]:
    """Read certificates of authorities from the file with this name, in PEM."""
    data = _read_file(text)
    try:
        found = x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ValueError(f"names {text}, which has no certificate in PEM") from error
    return [Certificate.loadPEM(each.public_bytes(Encoding.PEM)) for each in found]


def read_identity(text: str) -> ClientIdentity:
    """Read a certificate and its key from the file with this name, in PEM."""
    data = _read_file(text)
    try:
        return load_identity(data)
    except ValueError as error:
        raise ValueError(
            f"names {text}, which must have a certificate and its key, both in PEM: {error}"
        ) from error


def read_proxy(text: str) -> HttpProxy:
    """Parse the URL of an HTTP proxy, which may have a user and a password."""
    wrong = ValueError("must be a URL like http://user:password@host:port")
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise wrong from None
    has_more = url.path not in ("", "/") or url.query or url.fragment
    if url.scheme != "http" or not url.hostname or has_more:
        raise wrong
    return HttpProxy(url.hostname, port or 80, url.username or "", url.password or "")


def read_header_file(text: str) -> list[tuple[bytes, bytes]]:
    """Read headers from the file with this name: ``Name: value`` in each line.

    Empty lines, and lines that begin with ``#``, are skipped.
    """
    headers = []
    for number, line in enumerate(_read_file(text).decode("latin-1").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon or not value.strip().isprintable():
            raise ValueError(f"names {text}, whose line {number} must be like Name: value")
        try:
            _check_name(name)
        except ValueError as error:
            raise ValueError(f"names {text}, whose line {number} {error}") from None
        headers.append((name.encode(), value.strip().encode("latin-1")))
    return headers


def read_header_names(text: str) -> list[str]:
    """Parse names of headers that are separated by spaces."""
    names = text.split()
    for name in names:
        _check_name(name)
    return [name.lower() for name in names]


def _check_name(name: str) -> None:
    if not HEADER_NAME.fullmatch(name):
        raise ValueError(f"must have the name of a header, not {name!r}")
    if name.lower() in RESERVED:
        raise ValueError(f"must not have {name}, which belongs to the connection or to jobproxy")


def _read_file(text: str) -> bytes:
    try:
        return Path(text).read_bytes()
    except OSError as error:
        raise ValueError(f"names {text}, which cannot be read: {error.strerror}") from error
