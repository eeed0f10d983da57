"""The address of a store, parsed from its URL."""

from attrs import frozen

from jobproxy.store.redis_address import RedisAddress, read_redis_address
from jobproxy.store.sqlite_address import SqliteAddress, read_sqlite_address

_FORMS = (
    "must be memory:, sqlite:PATH, redis://[user:password@]host[:port][/db], rediss://… for TLS, "
    "or redis+sentinel://[user:password@]host[:port],…/service[/db]"
)


@frozen
class StoreAddress:
    """Where keys, results and orphans are kept; without either of these, in memory alone."""

    sqlite: SqliteAddress | None = None
    redis: RedisAddress | None = None


MEMORY = StoreAddress()


def read_address(text: str) -> StoreAddress:
    """Parse the URL of a store.

    :raises ValueError: if the URL is invalid; its text never contains a URL that may have a
        password.
    """
    if text == "memory:":
        return MEMORY
    if text.startswith("sqlite:"):
        return StoreAddress(sqlite=read_sqlite_address(text.removeprefix("sqlite:")))
    redis = read_redis_address(text)
    if redis is None:
        raise ValueError(_FORMS)
    return StoreAddress(redis=redis)
