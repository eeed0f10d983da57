"""A map whose values expire, and which is shared fairly between their owners when it is full."""

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
class _Share(Generic[Value]):
    """The values of one owner: a list, linked both ways, from the oldest to the newest.

    :ivar size: bytes of all of them.
    :ivar rank: the exponent of the highest power of two that is not above the size.
    """

    owner: str
    size: int = 0
    rank: int = -1
    oldest: "_Entry[Value] | None" = None
    newest: "_Entry[Value] | None" = None


@define(eq=False)
class _Entry(Generic[Value]):
    key: str
    value: Value
    expires: float
    size: int
    share: _Share[Value]
    older: "_Entry[Value] | None"
    newer: "_Entry[Value] | None" = None


@define(eq=False)
class ExpiringMap(Generic[Value]):
    """Values by key, in the order in which they were put; each expires after the same time.

    Each value belongs to an owner. When the map is full, the oldest value of an owner with the most
    bytes is dropped: an owner loses nothing while it has less than half of an equal share.

    :param seconds: how long each value is kept, and at most :data:`SLACK` longer.
    :param max_number: the number of values that are kept.
    :param max_bytes: their bytes in all, by the sizes given to :meth:`put`.
    :param on_drop: is called with each value that expired or was dropped for lack of room; not
        with those that were removed.
    :ivar size: bytes of all values, by the sizes given to :meth:`put`.
    :ivar dropped: how many values were dropped for lack of room.
    """

    _clock: IReactorTime
    _seconds: float
    _max_number: int
    _max_bytes: int
    _on_drop: Callable[[Value], object]
    _entries: OrderedDict[str, _Entry[Value]] = field(factory=OrderedDict, init=False, repr=False)
    _shares: dict[str, _Share[Value]] = field(factory=dict, init=False, repr=False)
    #: The shares of each rank. A share of the highest rank has more than half of the largest one.
    _ranks: dict[int, OrderedDict[_Share[Value], None]] = field(
        factory=dict, init=False, repr=False
    )
    _timer: Deadline | None = field(default=None, init=False)
    size: int = field(default=0, init=False)
    dropped: int = field(default=0, init=False)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Value]:
        """Iterate over the values, the oldest first."""
        return (entry.value for entry in self._entries.values())

    def find(self, key: str) -> Value | None:
        """Return the value of a key, if there is one."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def put(self, key: str, value: Value, size: int = 1, owner: str = "") -> None:
        """Add a value; it may be dropped at once if it is too large.

        :param key: must not be in the map.
        :param size: in bytes; at least 1, so that every value counts.
        :param owner: whose share it counts to; values without an owner share one.
        """
        share = self._shares.get(owner)
        if share is None:
            share = self._shares[owner] = _Share(owner)
        entry = _Entry(key, value, self._clock.seconds() + self._seconds, size, share, share.newest)
        if share.newest is None:
            share.oldest = entry
        else:
            share.newest.newer = entry
        share.newest = self._entries[key] = entry
        self.size += size
        self._resize(share, size)
        if self._timer is None:
            self._timer = Deadline(self._clock, self._seconds, self._sweep)
        self._make_room()

    def resize(self, key: str, size: int) -> None:
        """Change the size of a value, which keeps its time; it may be dropped at once.

        :raises KeyError: if there is none of this key.
        """
        entry = self._entries[key]
        change, entry.size = size - entry.size, size
        self.size += change
        self._resize(entry.share, change)
        self._make_room()

    def remove(self, key: str) -> None:
        """Remove a value.

        :raises KeyError: if there is none of this key.
        """
        entry = self._entries.pop(key)
        share, older, newer = entry.share, entry.older, entry.newer
        if older is None:
            share.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            share.newest = older
        else:
            newer.older = older
        self.size -= entry.size
        self._resize(share, -entry.size)

    def clear(self) -> None:
        """Remove all values and cancel the timer; ``on_drop`` is not called."""
        for entry in self._entries.values():
            # They refer to each other, and only the garbage collector could free them.
            entry.older = entry.newer = None
        self._entries.clear()
        self._shares.clear()
        self._ranks.clear()
        self.size = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _resize(self, share: _Share[Value], change: int) -> None:
        """Change the size of a share, which moves it to another rank at times."""
        share.size += change
        if share.oldest is None:
            del self._shares[share.owner]
        elif share.rank >= 0 and 1 << share.rank <= share.size < 2 << share.rank:
            return
        if share.rank >= 0:
            peers = self._ranks[share.rank]
            del peers[share]
            if not peers:
                del self._ranks[share.rank]
        if share.oldest is not None:
            share.rank = share.size.bit_length() - 1
            self._ranks.setdefault(share.rank, OrderedDict())[share] = None

    def _make_room(self) -> None:
        while self.size > self._max_bytes or len(self._entries) > self._max_number:
            self.dropped += 1
            self._drop(self._find_superfluous())

    def _find_superfluous(self) -> _Entry[Value]:
        """Return the oldest value of a share of the highest rank."""
        share = next(iter(self._ranks[max(self._ranks)]))
        assert share.oldest is not None
        return share.oldest

    def _drop(self, entry: _Entry[Value]) -> None:
        self.remove(entry.key)
        self._on_drop(entry.value)

    def _sweep(self) -> None:
        """Drop the values that have expired, and set the timer for the next one."""
        self._timer = None
        now = self._clock.seconds()
        while self._entries:
            entry = next(iter(self._entries.values()))
            if entry.expires > now:
                self._timer = Deadline(self._clock, max(SLACK, entry.expires - now), self._sweep)
                return
            self._drop(entry)
