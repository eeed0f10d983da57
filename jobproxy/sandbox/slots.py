"""The simulator's slots: it serves one connection of an account at a time."""

from collections import deque
from typing import Literal

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed

from jobproxy.sandbox.network import Connection

Holding = Literal["request", "connection"]


@define(eq=False)
class Slots:
    """Limits the connections of each account that are served at once; the others queue.

    It is not known how long a connection of the real job server holds its slot, so there are both:
    while one of its requests is served, or from its first request until it is closed.

    :param per_account: connections of an account that are served at once.
    :param holding: what holds a slot.
    :ivar holders: the connections that hold a slot of an account, for ``holding="connection"``.
    """

    _per_account: int
    _holding: Holding
    _accounts: dict[str, DeferredSemaphore] = field(factory=dict, init=False, repr=False)
    holders: set[tuple[Connection, str]] = field(factory=set, init=False, repr=False)
    _releasing: deque[str] = field(factory=deque, init=False, repr=False)

    def __len__(self) -> int:
        """Return the number of accounts that have a slot or wait for one."""
        return len(self._accounts)

    def acquire(self, account: str, connection: Connection) -> Deferred[None]:
        """Wait for a slot; :meth:`release` has to follow the response to the request."""
        if self._holding == "connection" and (connection, account) in self.holders:
            return succeed(None)
        semaphore = self._accounts.get(account)
        if semaphore is None:
            semaphore = self._accounts[account] = DeferredSemaphore(self._per_account)
        return semaphore.acquire().addCallback(lambda _: self._hold(account, connection))

    def release(self, account: str) -> None:
        """Record the response to a request, which frees its slot if requests hold slots."""
        if self._holding == "request":
            self._free(account)

    def _hold(self, account: str, connection: Connection) -> None:
        if self._holding == "connection":
            self.holders.add((connection, account))
            connection.when_closed(lambda: self._close(account, connection))

    def _close(self, account: str, connection: Connection) -> None:
        self.holders.discard((connection, account))
        self._free(account)

    def _free(self, account: str) -> None:
        self._releasing.append(account)
        if len(self._releasing) > 1:
            return  # the loop below, further up the stack, frees it
        while self._releasing:
            semaphore = self._accounts[self._releasing[0]]
            semaphore.release()  # the next holder may free it before this returns
            if semaphore.tokens == semaphore.limit:
                del self._accounts[self._releasing[0]]
            self._releasing.popleft()
