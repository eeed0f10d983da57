"""Where a URL out of a message may lead: to the job server, and to nothing else."""

from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def place_of(url: str) -> str | None:
    """Return the host of a URL, with the port if it is not the usual one; in lower case.

    :return: :data:`None`: it is no URL of HTTP, or has a user in it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if parts.scheme not in _PORTS or not host or "@" in parts.netloc or not is_plain:
        return None
    host = f"[{host}]" if ":" in host else host.rstrip(".")
    return host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"


def is_allowed(url: str, hosts: frozenset[str], start_url: str) -> bool:
    """Whether the credentials of a client may go to a URL.

    :param hosts: the places that are allowed.
    :param start_url: of the profile: where that is encrypted, all is.
    """
    is_safe = url.lower().startswith("https:") or not start_url.lower().startswith("https:")
    return is_safe and place_of(url) in hosts
