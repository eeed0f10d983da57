"""Transactions: what came in the meantime is written to a database together, in a thread."""

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from jobproxy.store.interface import StoreUnreachable
from jobproxy.util.histogram import Histogram

Returned = TypeVar("Returned")

#: A part of a transaction. It is called in the thread, and again if another part has failed.
Work = Callable[[sqlite3.Connection], Returned]
#: Calls a function in a thread, one after another.
InThread = Callable[[Callable[[], Returned]], "Deferred[Returned]"]

#: The parts of one transaction at most.
MAX_PARTS = 256
#: The parts that wait at most; what comes then is refused.
MAX_WAITING = 16_384


@define(eq=False)
class Transactions:
    """Runs work on a database. Each transaction has all the work that waited for the one before.

    So the disk is asked to keep the data (``fsync``) once for many: work waits for the transaction
    that runs and for its own, and for others only while more than :data:`MAX_PARTS` wait.

    :param in_thread: calls the work in a thread.
    :param timeout: seconds for one transaction; the work that waits fails then.
    :param calls: counts how much work has succeeded and failed.
    :param durations: of transactions.
    :ivar error: why some work has failed, until :meth:`forget_error`.
    :ivar is_hanging: whether a transaction takes longer than its timeout.
    """

    _clock: IReactorTime
    _in_thread: InThread[Any]
    _timeout: float
    _connection: sqlite3.Connection
    _calls: Counter[str] = field(factory=Counter)
    _durations: Histogram = field(factory=Histogram, repr=False)
    _waiting: list[tuple[Work[Any], Deferred[Any]]] = field(factory=list, init=False)
    _running: list[tuple[Work[Any], Deferred[Any]]] = field(factory=list, init=False)
    _is_busy: bool = field(default=False, init=False)
    _is_refused: bool = field(default=False, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)
    _end: Deferred[None] | None = field(default=None, init=False)
    error: sqlite3.Error | None = field(default=None, init=False)
    is_hanging: bool = field(default=False, init=False)
    _begun: float = field(default=0.0, init=False)

    def add(self, work: Work[Returned]) -> Deferred[Returned]:
        """Do some work in the next transaction.

        :return: fires with what the work returned, once it is safe; fails with
            :class:`StoreUnreachable` if the database has failed, does not respond, or too much
            waits for it.
        """
        is_full = len(self._waiting) >= MAX_WAITING
        if self.is_hanging or self._is_refused or self._end is not None or is_full:
            self._calls["failed"] += 1
            return fail(StoreUnreachable())
        done: Deferred[Returned] = Deferred()
        self._waiting.append((work, done))
        if not self._is_busy:
            self._begin()
        return done

    def close(self) -> Deferred[None]:
        """Close the database once all work is done; fires then, or at once if it hangs."""
        end: Deferred[None] = Deferred()
        self._end = end
        if self.is_hanging:
            self._end_close()
        elif not self._is_busy:
            self._close()
        return end

    def refuse(self) -> None:
        """Do no work any more, as its file is not the right one."""
        self._is_refused = True

    def forget_error(self) -> None:
        """Forget the last error, as something could be written since."""
        self.error = None

    def _begin(self) -> None:
        self._running, self._waiting = self._waiting[:MAX_PARTS], self._waiting[MAX_PARTS:]
        self._is_busy = True
        parts = [work for work, _ in self._running]
        self._begun = self._clock.seconds()
        self._timer = self._clock.callLater(self._timeout, self._give_up)
        running = self._in_thread(lambda: commit(self._connection, parts))
        running.addCallback(self._finish).addErrback(self._give_up)

    def _finish(self, outcomes: Sequence[Any]) -> None:
        self._stop_timer()
        done, self._running = self._running, []
        self._is_busy = self.is_hanging = False
        self._durations.observe(self._clock.seconds() - self._begun)
        self._calls["ok"] += len(done)
        if self._waiting:
            self._begin()
        elif self._end is not None:
            self._close()
        for (_, deferred), outcome in zip(done, outcomes, strict=False):
            if not isinstance(outcome, Failure):
                deferred.callback(outcome)
            else:
                self._fail(deferred, outcome)

    def _fail(self, deferred: Deferred[Any], failure: Failure) -> None:
        self._calls["ok"] -= 1
        self._calls["failed"] += 1
        if isinstance(failure.value, sqlite3.Error):
            self.error = failure.value
            failure = Failure(StoreUnreachable())
        deferred.errback(failure)

    def _give_up(self, failure: Failure | None = None) -> Any:
        """Fail all that waits: nothing is written any more until this transaction has ended."""
        self._stop_timer()
        self.is_hanging = True
        self.error = sqlite3.OperationalError("the disk does not respond")
        failed, self._waiting = self._running + self._waiting, []
        # What the transaction returns in the end is not wanted any more.
        self._running = []
        self._calls["failed"] += len(failed)
        for _, deferred in failed:
            deferred.errback(StoreUnreachable())
        self._end_close()
        return failure

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def _close(self) -> None:
        self._in_thread(self._connection.close).addBoth(self._end_close)

    def _end_close(self, _: object = None) -> None:
        if self._end is not None and not self._end.called:
            self._end.callback(None)


def commit(connection: sqlite3.Connection, parts: Sequence[Work[Any]]) -> list[Any]:
    """Do all parts in one transaction; if one fails, do each in a transaction of its own.

    :return: what each part has returned, or its failure.
    """
    try:
        return _commit(connection, parts)
    except Exception:
        if len(parts) == 1:
            return [Failure()]
    return [outcome for part in parts for outcome in commit(connection, [part])]


def _commit(connection: sqlite3.Connection, parts: Sequence[Work[Any]]) -> list[Any]:
    if connection.in_transaction:
        # The one before could not be undone at once.
        connection.execute("ROLLBACK")
    try:
        connection.execute("BEGIN")
        outcomes = [part(connection) for part in parts]
        connection.execute("COMMIT")
    except BaseException:
        # SQLite has rolled back already after some errors, like that of a full disk.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes
