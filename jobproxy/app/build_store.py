"""Makes the store, and checks it before the proxy starts."""

import os
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from jobproxy.app.settings import Settings
from jobproxy.store.interface import IStore
from jobproxy.store.key_file import read_or_make_keys
from jobproxy.store.redis_address import RedisAddress
from jobproxy.store.sqlite import SqliteStore
from jobproxy.store.sqlite_address import SqliteAddress
from jobproxy.store.sqlite_errors import BadStore, StoreInUse
from jobproxy.store.sqlite_file import SqliteFile
from jobproxy.store.sqlite_session import Session
from jobproxy.store.sqlite_statements import count_running
from jobproxy.store.times import TIMES


class UnusableStore(Exception):
    """The store cannot be used; the message follows the name of the option."""


def prepare(settings: Settings) -> Settings:
    """Check the store, and return the settings with the key that is kept beside it.

    :raises UnusableStore: if a process that used it would fail at once.
    """
    address = settings.store.sqlite
    if address is None:
        return settings
    running = _check(address)
    if settings.secret_file:
        return settings
    if running and not Path(address.key_path).exists():
        raise UnusableStore(
            f"{address.key_path} is gone, the key for the callbacks of {running} that have not "
            "ended: restore it from a backup; or write a new key to that file, and give them up"
        )
    try:
        keys = read_or_make_keys(address.key_path, os.urandom)
    except ValueError as error:
        raise UnusableStore(f"{address.key_path} {error}") from error
    return evolve(settings, secret_file=tuple(keys))


def _check(address: SqliteAddress) -> str:
    """Open the file once; return the jobs in it that have not ended, in words, if there are some.

    :raises UnusableStore: if it cannot be used.
    """
    file = SqliteFile(address)
    try:
        # The file is closed again, as a connection must not be used after a fork.
        with closing(file.open(time.time())) as connection:
            running = count_running(connection, file.time)
    except StoreInUse:
        # This process waits for the other one, and cannot look into the file.
        return "its jobs"
    except BadStore as error:
        raise UnusableStore(f"{address.path} {error}") from error
    finally:
        file.unlock()
    return f"{running} job{'s' * (running != 1)}" if running else ""


def make_store(settings: Settings, reactor: Any, node: str) -> IStore | None:
    """Return the store; :data:`None` if everything is kept in memory alone."""
    if settings.store.sqlite is not None:
        return _make_sqlite(settings, settings.store.sqlite, reactor, node)
    if settings.store.redis is not None:
        return _make_redis(settings, settings.store.redis, reactor, node)
    return None


def _make_sqlite(
    settings: Settings, address: SqliteAddress, reactor: Any, node: str
) -> SqliteStore:
    pool = ThreadPool(1, 1, "store")
    # Threads do not survive the fork of a daemon.
    reactor.callWhenRunning(pool.start)
    reactor.addSystemEventTrigger("after", "shutdown", pool.stop)
    in_thread = partial(deferToThreadPool, reactor, pool)
    session = Session(reactor, SqliteFile(address), in_thread, time.time, TIMES)
    return SqliteStore(session, node, settings.longest_retain, settings.key_life)


def _make_redis(settings: Settings, address: RedisAddress, reactor: Any, node: str) -> IStore:
    # txredisapi is an optional dependency, which only Redis needs.
    from jobproxy.store.redis import RedisStore

    def make_endpoint(host: str, port: int) -> IStreamClientEndpoint:
        endpoint = HostnameEndpoint(reactor, host.encode(), port, TIMES.answer)
        return wrapClientTLS(optionsForClientTLS(host), endpoint) if address.is_tls else endpoint

    return RedisStore(
        reactor, address, make_endpoint, node, settings.longest_retain, settings.key_life, TIMES
    )
