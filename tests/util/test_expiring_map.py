"""ExpiringMap: values expire after their time, and are dropped earlier when it is full."""

from attrs import frozen
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.util.expiring_map import SLACK, ExpiringMap

SECONDS = 10.0
MAX_NUMBER = 4
MAX_BYTES = 100


class ExpiringMapTests(SynchronousTestCase):
    """Single rules; the state machine below combines them."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.dropped: list[str] = []
        self.map = ExpiringMap(self.clock, SECONDS, MAX_NUMBER, MAX_BYTES, self.dropped.append)

    def put(self, names: str, size: int = 1) -> None:
        for name in names:
            self.map.put(name, name.upper(), size)

    def check(self, kept: str, dropped: str) -> None:
        """Check the values, the oldest first, and those that were dropped."""
        self.assertEqual("".join(self.map), kept)
        self.assertEqual(len(self.map), len(kept))
        self.assertEqual("".join(self.dropped), dropped)

    def test_value_expires_after_its_time(self) -> None:
        """B2: what is known of a job is kept for its time, and no longer."""
        self.put("a")
        self.clock.advance(SECONDS - 0.25)
        self.check(kept="A", dropped="")
        self.assertEqual(self.map.find("a"), "A")
        self.clock.advance(0.25)
        self.check(kept="", dropped="A")
        self.assertIsNone(self.map.find("a"))
        self.assertEqual(self.map.size, 0)

    def test_later_value_keeps_its_own_time(self) -> None:
        """A value that was put later is kept for its own time, and no longer than the slack."""
        self.put("a")
        self.clock.advance(0.5)
        self.put("b")
        self.clock.advance(SECONDS - 0.25)
        self.check(kept="B", dropped="A")
        self.clock.advance(SLACK + 0.25)
        self.check(kept="", dropped="AB")

    def test_timer_is_set_for_the_next_value(self) -> None:
        """When one value expires, the timer is set for the next one."""
        self.put("a")
        self.clock.advance(6)
        self.put("b")
        self.clock.pump([4, 5.75])
        self.check(kept="B", dropped="A")
        self.clock.advance(0.25)
        self.check(kept="", dropped="AB")

    def test_oldest_value_is_dropped_when_there_are_too_many(self) -> None:
        """B2: when there are too many values, the oldest are dropped first."""
        self.put("abcd")
        self.check(kept="ABCD", dropped="")
        self.put("ef")
        self.check(kept="CDEF", dropped="AB")

    def test_oldest_values_are_dropped_when_there_are_too_many_bytes(self) -> None:
        """B2: when there are too many bytes, as many of the oldest are dropped as necessary."""
        self.put("abc", size=30)
        self.put("d", size=10)
        self.check(kept="ABCD", dropped="")
        self.map.remove("d")
        self.put("e", size=41)
        self.check(kept="CE", dropped="AB")
        self.assertEqual(self.map.size, 71)

    def test_value_above_max_bytes_is_dropped_at_once(self) -> None:
        """A value that exceeds the maximum alone is dropped at once and takes no room."""
        self.put("a", size=MAX_BYTES + 1)
        self.check(kept="", dropped="A")
        self.put("b", size=MAX_BYTES)
        self.check(kept="B", dropped="A")

    def test_removed_value_is_not_dropped(self) -> None:
        """A removed value is not dropped, frees its room, and its key may be put again."""
        self.put("ab", size=50)
        self.map.remove("a")
        self.check(kept="B", dropped="")
        self.clock.advance(5)
        self.put("a", size=50)
        self.check(kept="BA", dropped="")
        self.clock.advance(SECONDS - 5)
        self.check(kept="A", dropped="B")
        self.clock.advance(5)
        self.check(kept="", dropped="BA")

    def test_clear_drops_nothing_and_cancels_the_timer(self) -> None:
        """Clearing the map drops nothing and leaves no timer; the map can be used afterwards."""
        self.put("ab", size=50)
        self.map.clear()
        self.check(kept="", dropped="")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.map.clear()
        self.put("c", size=MAX_BYTES)
        self.check(kept="C", dropped="")
        self.clock.advance(SECONDS)
        self.check(kept="", dropped="C")

    def test_values_without_a_size_are_bounded_by_number(self) -> None:
        """Values without a size are bounded by their number alone."""
        for name in "abcde":
            self.map.put(name, name)
        self.assertEqual((len(self.map), self.map.size), (MAX_NUMBER, MAX_NUMBER))

    def test_an_owner_drops_none_of_another_who_has_less(self) -> None:
        """L8: an owner who fills the map loses his own values, the oldest first."""
        self.map.put("small", "small", 20, "one")
        for number in range(10):
            self.map.put(str(number), str(number), 30, "two")
        self.assertEqual(list(self.map), ["small", "8", "9"])
        self.assertEqual(self.dropped, list("01234567"))
        self.assertEqual(self.map.dropped, 8)

    def test_owners_with_the_same_are_treated_alike(self) -> None:
        """Owners who put the same lose values in turn, and keep at least half of a share."""
        for number in range(12):
            self.map.put(f"a{number}", "one", 20, "one")
            self.map.put(f"b{number}", "two", 20, "two")
            if number:
                self.assertEqual(set(self.map), {"one", "two"})


@frozen
class Entry:
    """A value that the map should have."""

    name: str
    due: float
    size: int
    owner: str


class ExpiringMapMachine(RuleBasedStateMachine):
    """Puts, removes and expires values in any order, and compares the map with a list."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.map = ExpiringMap(self.clock, SECONDS, MAX_NUMBER, MAX_BYTES, self.drop)
        #: The oldest first.
        self.kept: list[Entry] = []
        self.count = 0
        self.is_putting = False

    def drop(self, name: str) -> None:
        """Check that a value has expired, or is the oldest of an owner with too much."""
        entry = next(entry for entry in self.kept if entry.name == name)
        oldest = next(other for other in self.kept if other.owner == entry.owner)
        assert entry is oldest, "first in, first out"
        if self.is_putting:
            assert len(self.kept) > MAX_NUMBER or self.total > MAX_BYTES, "there was room"
            largest = max(self.size_of(other.owner) for other in self.kept)
            assert self.size_of(entry.owner) > largest / 2, "another has more than twice as much"
        else:
            assert entry is self.kept[0]
            due = entry.due
            assert due <= self.clock.seconds() <= due + SLACK, "too early, or too late"
        self.kept.remove(entry)

    @property
    def total(self) -> int:
        return sum(entry.size for entry in self.kept)

    def size_of(self, owner: str) -> int:
        return sum(entry.size for entry in self.kept if entry.owner == owner)

    @rule(size=st.integers(1, MAX_BYTES + 10), owner=st.sampled_from("abc"))
    def put(self, size: int, owner: str) -> None:
        name = str(self.count)
        self.count += 1
        self.kept.append(Entry(name, self.clock.seconds() + SECONDS, size, owner))
        self.is_putting = True
        self.map.put(name, name, size, owner)
        self.is_putting = False

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.kept))
        self.kept.remove(entry)
        self.map.remove(entry.name)

    @rule(quarters=st.integers(1, 60))
    def pass_time(self, quarters: int) -> None:
        for _ in range(quarters):
            self.clock.advance(0.25)

    @rule()
    def clear(self) -> None:
        self.kept.clear()
        self.map.clear()

    @invariant()
    def has_all_values(self) -> None:
        assert list(self.map) == [entry.name for entry in self.kept]
        assert len(self.map) == len(self.kept) <= MAX_NUMBER
        assert self.map.size == self.total <= MAX_BYTES
        assert all(self.map.find(entry.name) == entry.name for entry in self.kept)

    @invariant()
    def has_one_timer(self) -> None:
        assert bool(self.kept) <= len(self.clock.getDelayedCalls()) <= 1

    def teardown(self) -> None:
        self.pass_time(round(4 * (SECONDS + SLACK)))
        self.pass_time(round(4 * SECONDS))
        assert self.kept == []
        assert self.clock.getDelayedCalls() == []


ExpiringMapMachineTests = ExpiringMapMachine.TestCase
