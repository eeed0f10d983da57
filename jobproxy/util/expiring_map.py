"""Keeps things for a while: each for the same time, and never more of them than is bearable."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from jobproxy.util.deadline import Deadline

#: Seconds by which something may be kept too long, so that not each thing needs a timer.
SLACK = 1.0

Kept = TypeVar("Kept")


@define(eq=False)
class ExpiringMap(Generic[Kept]):
    """Things by name, in the order in which they were put here; the oldest have to go first.

    :param seconds: how long each is kept, and at most :data:`SLACK` longer.
    :param max_number: how many are kept.
    :param max_bytes: how much they may take together, by the sizes told to :meth:`put`.
    :param drop: is called with each thing that had to go; not with those that were taken.
    """

    _clock: IReactorTime
    _seconds: float
    _max_number: int
    _max_bytes: int
    _drop: Callable[[Kept], object]
    #: When each has to go, and its size in bytes.
    _things: OrderedDict[str, tuple[Kept, float, int]] = field(
        factory=OrderedDict, init=False, repr=False
    )
    _timer: Deadline | None = field(default=None, init=False)
    #: Bytes of all that is kept.
    size: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._things)

    def __iter__(self) -> Iterator[Kept]:
        """Go through what is kept, the oldest first."""
        return (kept for kept, _, _ in self._things.values())

    def find(self, name: str) -> Kept | None:
        """Return the thing of this name, if it is here."""
        found = self._things.get(name)
        return None if found is None else found[0]

    def put(self, name: str, thing: Kept, size: int = 0) -> None:
        """Keep a thing from now on.

        :param name: no other thing here has it.
        :param size: in bytes.
        """
        self._things[name] = (thing, self._clock.seconds() + self._seconds, size)
        self.size += size
        if self._timer is None:
            self._timer = Deadline(self._clock, self._seconds, self._sweep)
        while len(self._things) > self._max_number or self.size > self._max_bytes:
            self._drop_oldest()

    def take(self, name: str) -> None:
        """Keep a thing no longer."""
        _, _, size = self._things.pop(name)
        self.size -= size

    def clear(self) -> None:
        """Keep nothing any more, without a word to anybody."""
        self._things.clear()
        self.size = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop_oldest(self) -> None:
        name = next(iter(self._things))
        thing, _, _ = self._things[name]
        self.take(name)
        self._drop(thing)

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        while self._things:
            _, due, _ = next(iter(self._things.values()))
            if due > now:
                self._timer = Deadline(self._clock, max(SLACK, due - now), self._sweep)
                return
            self._drop_oldest()
