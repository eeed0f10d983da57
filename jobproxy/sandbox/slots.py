"""What makes the job server hard to use: it serves one connection of an account at a time."""

from collections import deque
from typing import Literal

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore, succeed

from jobproxy.sandbox.network import Connection

Holding = Literal["request", "connection"]


@define(eq=False)
class Slots:
    """Lets a bounded number of connections of each account be served; the rest queue.

    How long a connection counts is not known of the real server, so both readings are here:
    while one of its requests is being served, or from its first request until it is closed.

    :param per_account: connections of an account that are served at once.
    :param holding: what holds a slot.
    """

    _per_account: int
    _holding: Holding
    _accounts: dict[str, DeferredSemaphore] = field(factory=dict, init=False, repr=False)
    _holders: set[tuple[Connection, str]] = field(factory=set, init=False, repr=False)
    _given_back: deque[str] = field(factory=deque, init=False, repr=False)

    def acquire(self, account: str, connection: Connection) -> Deferred[None]:
        """Wait for a slot; to be released when the request is answered."""
        if self._holding == "connection" and (connection, account) in self._holders:
            return succeed(None)
        semaphore = self._accounts.get(account)
        if semaphore is None:
            semaphore = self._accounts[account] = DeferredSemaphore(self._per_account)
        return semaphore.acquire().addCallback(lambda _: self._hold(account, connection))

    def release(self, account: str) -> None:
        """Say that a request of the account has been answered."""
        if self._holding == "request":
            self._give_back(account)

    def _hold(self, account: str, connection: Connection) -> None:
        if self._holding == "connection":
            self._holders.add((connection, account))
            connection.when_closed(lambda: self._let_go(account, connection))

    def _let_go(self, account: str, connection: Connection) -> None:
        self._holders.discard((connection, account))
        self._give_back(account)

    def _give_back(self, account: str) -> None:
        self._given_back.append(account)
        if len(self._given_back) > 1:
            return  # the loop below, further up the stack, comes to it
        while self._given_back:
            semaphore = self._accounts[self._given_back[0]]
            semaphore.release()  # whoever gets it may give it back before this returns
            if semaphore.tokens == semaphore.limit:
                del self._accounts[self._given_back[0]]
            self._given_back.popleft()
