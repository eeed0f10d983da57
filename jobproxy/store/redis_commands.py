"""Commands to Redis, which fail with :class:`StoreUnreachable` whatever was wrong."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from txredisapi import ConnectionError as LostConnection
from txredisapi import RedisError

from jobproxy.store.interface import StoreUnreachable
from jobproxy.store.redis_connection import Link, explain
from jobproxy.util.histogram import Histogram

_log = Logger()


@define(eq=False)
class Commands:
    """Executes commands and scripts over one connection.

    :param timeout: seconds for each; then the connection is dropped.
    :ivar calls: how many succeeded and failed.
    :ivar durations: of those that succeeded.
    """

    _clock: IReactorTime
    link: Link
    _timeout: float
    calls: Counter[str] = field(factory=Counter, init=False)
    durations: Histogram = field(factory=Histogram, init=False, repr=False)

    def run(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Deferred[Any]:
        """Run a script of ``redis_scripts.py``."""
        return Deferred.fromCoroutine(
            self._call(lambda protocol: protocol.eval(script, keys, args))
        )

    def execute(self, *command: Any) -> Deferred[Any]:
        """Execute a single command."""
        return Deferred.fromCoroutine(
            self._call(lambda protocol: protocol.execute_command(*command))
        )

    async def _call(self, call: Callable[[Any], Deferred[Any]]) -> Any:
        protocol = self.link.protocol
        if protocol is None:
            self.calls["failed"] += 1
            raise StoreUnreachable
        begun = self._clock.seconds()
        try:
            reply = await call(protocol).addTimeout(self._timeout, self._clock)
        except LostConnection:
            self.calls["failed"] += 1
            raise StoreUnreachable from None
        except (RedisError, DeferredTimeoutError) as error:
            self.calls["failed"] += 1
            _log.error("Redis failed: {error}", error=explain(error))
            if isinstance(error, DeferredTimeoutError) or "READONLY" in str(error):
                # The next commands would wait behind this one, or fail in the same way.
                self.link.drop()
            raise StoreUnreachable from None
        self.calls["ok"] += 1
        self.durations.observe(self._clock.seconds() - begun)
        return reply
