"""Shelves: what is put there is kept for its time, within bounds, and then goes by itself."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.util.expiring_map import SLACK, ExpiringMap

SECONDS = 10.0
MAX_NUMBER = 4
MAX_BYTES = 100


class ShelfTests(SynchronousTestCase):
    """Single rules; the rest is the machine's below."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.dropped: list[str] = []
        self.shelf = ExpiringMap(self.clock, SECONDS, MAX_NUMBER, MAX_BYTES, self.dropped.append)

    def put(self, names: str, size: int = 1) -> None:
        for name in names:
            self.shelf.put(name, name.upper(), size)

    def check(self, kept: str, dropped: str) -> None:
        """Check what is here, the oldest first, and what had to go."""
        self.assertEqual("".join(self.shelf), kept)
        self.assertEqual(len(self.shelf), len(kept))
        self.assertEqual("".join(self.dropped), dropped)

    def test_keeps_for_a_time(self) -> None:
        """B2: what is remembered of a job is there for its time, and not after."""
        self.put("a")
        self.clock.advance(SECONDS - 0.25)
        self.check(kept="A", dropped="")
        self.assertEqual(self.shelf.find("a"), "A")
        self.clock.advance(0.25)
        self.check(kept="", dropped="A")
        self.assertIsNone(self.shelf.find("a"))
        self.assertEqual(self.shelf.size, 0)

    def test_never_drops_early(self) -> None:
        """What came later stays for all of its own time, and no longer than the slack."""
        self.put("a")
        self.clock.advance(0.5)
        self.put("b")
        self.clock.advance(SECONDS - 0.25)
        self.check(kept="B", dropped="A")
        self.clock.advance(SLACK + 0.25)
        self.check(kept="", dropped="AB")

    def test_waits_for_what_comes_later(self) -> None:
        """What came much later is looked at when its own time has come."""
        self.put("a")
        self.clock.advance(6)
        self.put("b")
        self.clock.pump([4, 5.75])
        self.check(kept="B", dropped="A")
        self.clock.advance(0.25)
        self.check(kept="", dropped="AB")

    def test_bounds_the_number(self) -> None:
        """B2: past the number the oldest goes, first in first out."""
        self.put("abcd")
        self.check(kept="ABCD", dropped="")
        self.put("ef")
        self.check(kept="CDEF", dropped="AB")

    def test_bounds_the_bytes(self) -> None:
        """B2: past the bytes as many of the oldest go as have to."""
        self.put("abc", size=30)
        self.put("d", size=10)
        self.check(kept="ABCD", dropped="")
        self.shelf.take("d")
        self.put("e", size=41)
        self.check(kept="CE", dropped="AB")
        self.assertEqual(self.shelf.size, 71)

    def test_what_is_too_big_goes_at_once(self) -> None:
        """A thing that is over the bound alone is not kept, and leaves room as before."""
        self.put("a", size=MAX_BYTES + 1)
        self.check(kept="", dropped="A")
        self.put("b", size=MAX_BYTES)
        self.check(kept="B", dropped="A")

    def test_takes(self) -> None:
        """What is taken is not dropped, gives its room back, and may be put here again."""
        self.put("ab", size=50)
        self.shelf.take("a")
        self.check(kept="B", dropped="")
        self.clock.advance(5)
        self.put("a", size=50)
        self.check(kept="BA", dropped="")
        self.clock.advance(SECONDS - 5)
        self.check(kept="A", dropped="B")
        self.clock.advance(5)
        self.check(kept="", dropped="BA")

    def test_is_cleared(self) -> None:
        """A shelf that is cleared tells nobody, leaves no timer, and can be used on."""
        self.put("ab", size=50)
        self.shelf.clear()
        self.check(kept="", dropped="")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.shelf.clear()
        self.put("c", size=MAX_BYTES)
        self.check(kept="C", dropped="")
        self.clock.advance(SECONDS)
        self.check(kept="", dropped="C")

    def test_needs_no_size(self) -> None:
        """What takes next to nothing is bounded by its number alone."""
        for name in "abcde":
            self.shelf.put(name, name)
        self.assertEqual((len(self.shelf), self.shelf.size), (MAX_NUMBER, 0))


class ShelfMachine(RuleBasedStateMachine):
    """Things that are put, taken and forgotten in any order, beside a list that tells the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.shelf = ExpiringMap(self.clock, SECONDS, MAX_NUMBER, MAX_BYTES, self.drop)
        #: Name, time of the end, and size of all that should be here, the oldest first.
        self.kept: list[tuple[str, float, int]] = []
        self.count = 0
        self.is_putting = False

    def drop(self, name: str) -> None:
        """Check that something goes first when it is the oldest, and only when it has to."""
        oldest, due, _ = self.kept[0]
        assert name == oldest, "first in, first out"
        if self.is_putting:
            assert len(self.kept) > MAX_NUMBER or self.total > MAX_BYTES, "there was room"
        else:
            assert due <= self.clock.seconds() <= due + SLACK, "too early, or too late"
        del self.kept[0]

    @property
    def total(self) -> int:
        return sum(size for _, _, size in self.kept)

    @rule(size=st.integers(0, MAX_BYTES + 10))
    def put(self, size: int) -> None:
        name = str(self.count)
        self.count += 1
        self.kept.append((name, self.clock.seconds() + SECONDS, size))
        self.is_putting = True
        self.shelf.put(name, name, size)
        self.is_putting = False

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        thing = data.draw(st.sampled_from(self.kept))
        self.kept.remove(thing)
        self.shelf.take(thing[0])

    @rule(quarters=st.integers(1, 60))
    def pass_time(self, quarters: int) -> None:
        for _ in range(quarters):
            self.clock.advance(0.25)

    @rule()
    def clear(self) -> None:
        self.kept.clear()
        self.shelf.clear()

    @invariant()
    def tells_what_is_here(self) -> None:
        assert list(self.shelf) == [name for name, _, _ in self.kept]
        assert len(self.shelf) == len(self.kept) <= MAX_NUMBER
        assert self.shelf.size == self.total <= MAX_BYTES
        assert all(self.shelf.find(name) == name for name, _, _ in self.kept)

    @invariant()
    def has_one_timer(self) -> None:
        assert bool(self.kept) <= len(self.clock.getDelayedCalls()) <= 1

    def teardown(self) -> None:
        self.pass_time(round(4 * (SECONDS + SLACK)))
        self.pass_time(round(4 * SECONDS))
        assert self.kept == []
        assert self.clock.getDelayedCalls() == []


ShelfMachineTests = ShelfMachine.TestCase
