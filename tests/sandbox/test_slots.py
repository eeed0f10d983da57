"""The simulator's slots."""

from twisted.internet.defer import CancelledError

from jobproxy.sandbox.network import Connection
from jobproxy.sandbox.slots import Holding, Slots
from tests.support.network import NetworkTestCase


class SlotsTestCase(NetworkTestCase):
    """Connections that want a slot of an account; no account may be left when the test ends.

    :cvar holding: what holds a slot.
    """

    latency = 0.0
    holding: Holding = "request"

    def setUp(self) -> None:
        super().setUp()
        self.slots = self.make_slots(1)
        self.served: list[str] = []

    def tearDown(self) -> None:
        super().tearDown()
        self.assertEqual(len(self.slots), 0)
        self.assertEqual(self.slots.holders, set())

    def make_slots(self, per_account: int) -> Slots:
        return Slots(per_account, self.holding)

    def acquire(
        self, name: str, account: str = "a", connection: Connection | None = None
    ) -> Connection:
        """Acquire a slot, by default for a new connection; its name is listed in ``served``."""
        if connection is None:
            connection, _, _ = self.connect()
        waiting = self.slots.acquire(account, connection)
        waiting.addCallback(lambda _: self.served.append(name))
        return connection


class RequestSlotsTests(SlotsTestCase):
    """Slots that are held by a request until its response."""

    def test_requests_of_an_account_are_served_in_order(self) -> None:
        """One request of an account is served at a time, first come, first served."""
        for name in ("1", "2", "3"):
            self.acquire(name)
        for number in (1, 2, 3):
            self.assertEqual(self.served, ["1", "2", "3"][:number])
            self.slots.release("a")

    def test_next_request_of_a_connection_queues(self) -> None:
        """The next request of a connection queues like any other."""
        connection = self.acquire("1")
        self.acquire("2")
        self.slots.release("a")
        self.acquire("3", connection=connection)
        self.assertEqual(self.served, ["1", "2"])
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "2", "3"])
        self.slots.release("a")

    def test_accounts_do_not_wait_for_each_other(self) -> None:
        """However many requests of one account queue, another account is served at once."""
        for name in ("1", "2", "3"):
            self.acquire(name)
        self.acquire("other", "b")
        self.assertEqual(self.served, ["1", "other"])
        self.slots.release("b")
        self.assertEqual(self.served, ["1", "other"])
        for _ in range(3):
            self.slots.release("a")

    def test_two_slots_serve_two_requests(self) -> None:
        """With two slots two requests of an account are served at a time."""
        self.slots = self.make_slots(2)
        for name in ("1", "2", "3", "4"):
            self.acquire(name)
        self.assertEqual(self.served, ["1", "2"])
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "2", "3"])
        for _ in range(3):
            self.slots.release("a")

    def test_close_frees_no_slot(self) -> None:
        """The close of a connection frees no slot; the end of its request does."""
        connection = self.acquire("1")
        self.acquire("2")
        connection.loseConnection()
        self.assertEqual(self.served, ["1"])
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "2"])
        self.slots.release("a")

    def test_cancelled_request_leaves_the_queue(self) -> None:
        """A cancelled request leaves the queue."""
        self.acquire("1")
        waiting = self.slots.acquire("a", self.connect()[0])
        self.acquire("3")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "3"])
        self.slots.release("a")

    def test_idle_account_is_forgotten(self) -> None:
        """An account without a request is forgotten."""
        for number in range(100):
            self.acquire("1", f"account {number}")
        self.assertEqual(len(self.slots), 100)
        for number in range(100):
            self.slots.release(f"account {number}")
        self.assertEqual(len(self.slots), 0)

    def test_slots_freed_at_once_do_not_recurse(self) -> None:
        """Requests that end while they are granted their slot do not recurse without end."""
        self.acquire("1")
        done: list[None] = []

        def end(_: None) -> None:
            done.append(None)
            self.slots.release("a")

        for _ in range(2_000):
            self.slots.acquire("a", self.connect()[0]).addCallback(end)
        self.slots.release("a")
        self.assertEqual(len(done), 2_000)


class ConnectionSlotsTests(SlotsTestCase):
    """Slots that are held by a connection until its close."""

    holding: Holding = "connection"

    def test_slot_is_held_until_the_close(self) -> None:
        """A response frees no slot; the close of the connection does."""
        first, second, third = self.acquire("1"), self.acquire("2"), self.acquire("3")
        self.slots.release("a")
        self.assertEqual(self.served, ["1"])
        first.loseConnection()
        self.assertEqual(self.served, ["1", "2"])
        self.slots.release("a")
        self.assertEqual(self.served, ["1", "2"])
        second.loseConnection()
        self.assertEqual(self.served, ["1", "2", "3"])
        third.loseConnection()

    def test_client_close_frees_the_slot(self) -> None:
        """A client's close frees the slot as well."""
        first, _, transport = self.connect()
        self.acquire("1", connection=first)
        second = self.acquire("2")
        transport.loseConnection()
        self.assertEqual(self.served, ["1", "2"])
        second.loseConnection()

    def test_connection_with_a_slot_is_served_again(self) -> None:
        """A connection that holds a slot is served again, before any that queue."""
        first = self.acquire("1")
        second = self.acquire("2")
        for name in ("3", "4"):
            self.slots.release("a")
            self.acquire(name, connection=first)
        self.assertEqual(self.served, ["1", "3", "4"])
        first.loseConnection()
        self.assertEqual(self.served, ["1", "3", "4", "2"])
        second.loseConnection()

    def test_one_connection_can_hold_slots_of_two_accounts(self) -> None:
        """Accounts do not wait for each other, also when one connection holds both slots."""
        first = self.acquire("1", "a")
        self.slots.release("a")
        self.acquire("2", "b", connection=first)
        self.slots.release("b")
        self.assertEqual(self.served, ["1", "2"])
        others = [self.acquire("3", "a"), self.acquire("4", "b"), self.acquire("5", "c")]
        self.assertEqual(self.served, ["1", "2", "5"])
        first.loseConnection()
        self.assertEqual(self.served, ["1", "2", "5", "3", "4"])
        for connection in others:
            connection.loseConnection()

    def test_cancelled_request_leaves_the_connection_queue(self) -> None:
        """A cancelled request leaves the queue."""
        first = self.acquire("1")
        waiting = self.slots.acquire("a", self.connect()[0])
        third = self.acquire("3")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        first.loseConnection()
        self.assertEqual(self.served, ["1", "3"])
        third.loseConnection()

    def test_connection_closed_in_the_queue_holds_nothing(self) -> None:
        """A connection that is closed before its turn holds no slot."""
        first = self.acquire("1")
        second = self.acquire("2")
        second.loseConnection()
        third = self.acquire("3")
        self.assertEqual(self.served, ["1"])
        first.loseConnection()
        self.assertIn("3", self.served)
        third.loseConnection()

    def test_account_without_a_connection_is_forgotten(self) -> None:
        """An account without a connection is forgotten."""
        connections = [self.acquire("1", f"account {number}") for number in range(100)]
        for number in range(100):
            self.slots.release(f"account {number}")
        self.assertEqual(len(self.slots), 100)
        for connection in connections:
            connection.loseConnection()
        self.assertEqual(len(self.slots), 0)

    def test_last_connection_closed_in_the_queue_leaves_nothing(self) -> None:
        """The last connection of a queue, when closed before its turn, leaves nothing behind."""
        first = self.acquire("1")
        self.acquire("2").loseConnection()
        first.loseConnection()
        self.assertEqual(self.served, ["1", "2"])
