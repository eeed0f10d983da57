"""The address of a Redis, parsed from its URL."""

from urllib.parse import SplitResult, unquote, urlsplit

from attrs import field, frozen

_PORT = 6379
_SENTINEL_PORT = 26_379


@frozen
class RedisAddress:
    """Where a Redis is, and how to log in.

    :param hosts: host names and ports: of Redis, or of the sentinels if there is a service.
    :param service: the name of the master at the sentinels; :data:`None`: there are no sentinels.
    """

    hosts: tuple[tuple[str, int], ...]
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    is_tls: bool = False
    service: str | None = None


def read_redis_address(text: str) -> RedisAddress | None:
    """Parse the URL of a Redis; return :data:`None` if it is none."""
    try:
        return _read(urlsplit(text))
    except ValueError:
        return None


def _read(url: SplitResult) -> RedisAddress | None:
    scheme, _, rest = url.scheme.partition("+")
    if scheme not in ("redis", "rediss") or rest not in ("", "sentinel"):
        return None
    if url.query or url.fragment:
        return None
    credentials, _, hosts = url.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    default = _SENTINEL_PORT if rest else _PORT
    parts = [urlsplit(f"//{host}") for host in hosts.split(",")]
    found = tuple((part.hostname or "", part.port or default) for part in parts)
    path = url.path.strip("/").split("/") if url.path.strip("/") else []
    service = path.pop(0) if rest and path else None
    db = path.pop(0) if path else "0"
    is_whole = all(host for host, _ in found) and not path and db.isdigit()
    if not is_whole or bool(rest) != bool(service) or (len(found) > 1 and not rest):
        return None
    return RedisAddress(
        found,
        int(db),
        unquote(username) or None,
        unquote(password) or None,
        scheme == "rediss",
        service,
    )
