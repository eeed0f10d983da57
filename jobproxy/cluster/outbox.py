"""The outbox: calls to the store that are repeated when they failed because it was unreachable."""

from collections.abc import Callable
from itertools import count
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from jobproxy.jobs.retention import OVERHEAD, Bounds
from jobproxy.store.interface import StoreUnreachable
from jobproxy.util.chunks import chunked
from jobproxy.util.expiring_map import ExpiringMap

_log = Logger()

Call = Callable[[], Deferred[Any]]


@define(eq=False)
class Outbox:
    """Makes calls to the store in the background. They must be safe to repeat.

    :param seconds: how long a failed call is kept.
    :param bounds: of the failed calls that are kept.
    :ivar failed: how many times a call failed.
    """

    _clock: IReactorTime
    _seconds: float
    _bounds: Bounds = field(factory=Bounds)
    _kept: ExpiringMap[tuple[str, Call, int]] = field(init=False, repr=False)
    _numbers: "count[int]" = field(factory=count, init=False, repr=False)
    failed: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._kept = ExpiringMap(
            self._clock, self._seconds, self._bounds.number, self._bounds.size, lambda _: None
        )

    def __len__(self) -> int:
        """Return how many failed calls are kept."""
        return len(self._kept)

    @property
    def size(self) -> int:
        """About how many bytes the failed calls take."""
        return self._kept.size

    def send(self, call: Call, size: int = 0, *, again: bool = True) -> Deferred[bool]:
        """Make a call.

        :param size: about how many bytes the call keeps in memory.
        :param again: whether to keep and repeat it if the store is unreachable.
        :return: fires with whether the call succeeded at once.
        """
        return self._try(call, size, again)

    async def send_again(self) -> None:
        """Repeat the failed calls; to be called when the store can be reached again."""
        for chunk in chunked(list(self._kept)):
            for name, _, _ in chunk:
                if self._kept.find(name) is not None:
                    self._kept.remove(name)
            await gatherResults([self._try(call, size, True) for _, call, size in chunk])

    def _try(self, call: Call, size: int, again: bool) -> Deferred[bool]:
        return call().addCallbacks(lambda _: True, self._keep, errbackArgs=(call, size, again))

    def _keep(self, failure: Failure, call: Call, size: int, again: bool) -> bool:
        self.failed += 1
        if not failure.check(StoreUnreachable):
            _log.failure("a call to the store failed", failure)
        elif again:
            name = str(next(self._numbers))
            self._kept.put(name, (name, call, size), OVERHEAD + size)
        return False
