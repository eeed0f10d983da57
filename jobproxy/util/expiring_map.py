"""A map whose values expire: each after the same time, the oldest earlier when it is full."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from jobproxy.util.deadline import Deadline

#: Seconds by which a value may outlive its time, so that one timer serves many values.
SLACK = 1.0

Value = TypeVar("Value")


@define(eq=False)
class ExpiringMap(Generic[Value]):
    """Values by key, in the order in which they were put; the oldest are dropped first.

    :param seconds: how long each value is kept, and at most :data:`SLACK` longer.
    :param max_number: the number of values that are kept.
    :param max_bytes: their bytes in all, by the sizes given to :meth:`put`.
    :param on_drop: is called with each value that expired or was dropped for lack of room; not
        with those that were removed.
    :ivar size: bytes of all values, by the sizes given to :meth:`put`.
    """

    _clock: IReactorTime
    _seconds: float
    _max_number: int
    _max_bytes: int
    _on_drop: Callable[[Value], object]
    #: Each value with the time at which it expires and its size in bytes.
    _entries: OrderedDict[str, tuple[Value, float, int]] = field(
        factory=OrderedDict, init=False, repr=False
    )
    _timer: Deadline | None = field(default=None, init=False)
    size: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Value]:
        """Iterate over the values, the oldest first."""
        return (value for value, _, _ in self._entries.values())

    def find(self, key: str) -> Value | None:
        """Return the value of a key, if there is one."""
        entry = self._entries.get(key)
        return None if entry is None else entry[0]

    def put(self, key: str, value: Value, size: int = 0) -> None:
        """Add a value; it may be dropped at once if it is too large.

        :param key: must not be in the map.
        :param size: in bytes.
        """
        self._entries[key] = (value, self._clock.seconds() + self._seconds, size)
        self.size += size
        if self._timer is None:
            self._timer = Deadline(self._clock, self._seconds, self._sweep)
        while len(self._entries) > self._max_number or self.size > self._max_bytes:
            self._drop_oldest()

    def remove(self, key: str) -> None:
        """Remove a value.

        :raises KeyError: if there is none of this key.
        """
        _, _, size = self._entries.pop(key)
        self.size -= size

    def clear(self) -> None:
        """Remove all values and cancel the timer; ``on_drop`` is not called."""
        self._entries.clear()
        self.size = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _drop_oldest(self) -> None:
        key, (value, _, _) = next(iter(self._entries.items()))
        self.remove(key)
        self._on_drop(value)

    def _sweep(self) -> None:
        """Drop the values that have expired, and set the timer for the next one."""
        self._timer = None
        now = self._clock.seconds()
        while self._entries:
            _, expires, _ = next(iter(self._entries.values()))
            if expires > now:
                self._timer = Deadline(self._clock, max(SLACK, expires - now), self._sweep)
                return
            self._drop_oldest()
