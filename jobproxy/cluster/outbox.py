"""The outbox: what other nodes are to know, told again when it could not be told at first."""

from collections.abc import Callable
from itertools import count
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from jobproxy.jobs.retention import Bounds
from jobproxy.store.interface import StoreUnreachable
from jobproxy.util.expiring_map import ExpiringMap

_log = Logger()

#: How much is told at once.
CHUNK = 256

Ask = Callable[[], Deferred[Any]]


@define(eq=False)
class Outbox:
    """Has things done in the background that do no harm if they are done twice.

    :param seconds: for how long something is worth being told.
    """

    _clock: IReactorTime
    _seconds: float
    _bounds: Bounds = field(factory=Bounds)
    _kept: ExpiringMap[tuple[str, Ask, int]] = field(init=False, repr=False)
    _numbers: "count[int]" = field(factory=count, init=False, repr=False)
    #: How many times something could not be told.
    failed: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._kept = ExpiringMap(
            self._clock, self._seconds, self._bounds.number, self._bounds.size, lambda _: None
        )

    def __len__(self) -> int:
        """Return how much is still to be told."""
        return len(self._kept)

    def send(self, ask: Ask, size: int = 0, *, again: bool = True) -> None:
        """Ask the store for something.

        :param size: about how many bytes are kept if it has to be asked later.
        :param again: whether it is of use later.
        """
        self._try(ask, size, again)

    async def send_again(self) -> None:
        """Tell what could not be told; to be called when the store is back."""
        kept = list(self._kept)
        for start in range(0, len(kept), CHUNK):
            chunk = kept[start : start + CHUNK]
            for name, _, _ in chunk:
                if self._kept.find(name) is not None:
                    self._kept.remove(name)
            await gatherResults([self._try(ask, size, True) for _, ask, size in chunk])

    def _try(self, ask: Ask, size: int, again: bool) -> Deferred[Any]:
        return ask().addErrback(self._keep, ask, size, again)

    def _keep(self, failure: Failure, ask: Ask, size: int, again: bool) -> None:
        self.failed += 1
        if not failure.check(StoreUnreachable):
            _log.failure("the store failed", failure)
        elif again:
            name = str(next(self._numbers))
            self._kept.put(name, (name, ask, size), size)
