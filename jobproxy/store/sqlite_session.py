"""The connection of a process to the SQLite file of its store, for as long as the store is open."""

from collections import Counter
from collections.abc import Callable
from sqlite3 import Connection
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from jobproxy.store import sqlite_clock
from jobproxy.store import sqlite_statements as statements
from jobproxy.store.interface import Listener, Message, NullListener, StoreUnreachable
from jobproxy.store.sqlite_clock import StoreClock
from jobproxy.store.sqlite_errors import BadStore, is_damage, is_full, is_loss
from jobproxy.store.sqlite_file import SqliteFile
from jobproxy.store.times import Times
from jobproxy.store.transactions import InThread, Returned, Transactions, Work
from jobproxy.util.histogram import Histogram

_log = Logger()

#: A part of a transaction, which also gets the store's time.
TimedWork = Callable[[Connection, float], Returned]

#: Seconds between two steps of the removal of what has expired.
SWEEP_PAUSE = 0.05


@define(eq=False)
class Session:
    """Opens the file as soon as no other process has it, looks after it, and closes it.

    :param in_thread: calls a function in a thread of the store's own.
    :param now: returns Unix time in seconds.
    :ivar is_joined: whether the listener has ever caught up.
    :ivar calls: how much work has succeeded and failed.
    :ivar durations: of transactions.
    """

    _clock: IReactorTime
    _file: SqliteFile
    _in_thread: InThread[Any]
    _now: Callable[[], float]
    _times: Times
    is_joined: bool = field(default=False, init=False)
    calls: Counter[str] = field(factory=Counter, init=False)
    durations: Histogram = field(factory=Histogram, init=False, repr=False)
    _transactions: Transactions | None = field(default=None, init=False)
    #: Whether the listener has caught up since the file was opened.
    _is_current: bool = field(default=False, init=False)
    _is_opening: bool = field(default=False, init=False)
    #: The work that came while the file is opened; None: it is not being opened.
    _early: list[tuple[TimedWork[Any], Deferred[Any]]] | None = field(default=None, init=False)
    _store_clock: StoreClock = field(init=False)
    _listener: Listener = field(factory=NullListener, init=False)
    _beats: LoopingCall = field(init=False)
    _pause: Deferred[None] | None = field(default=None, init=False)
    #: What the log says of the store at present; :data:`None`: that it is well.
    _trouble: str | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._beats = LoopingCall(self._beat)
        self._beats.clock = self._clock
        self._store_clock = StoreClock(self._clock)

    @property
    def is_up(self) -> bool:
        """Whether the file can be read and written."""
        transactions = self._transactions
        return transactions is not None and transactions.error is None and self._is_current

    def open(self, listener: Listener) -> None:
        """Open the file, now or as soon as that is possible; pass messages to the listener."""
        self._listener = listener
        self._beats.start(self._times.beat)

    def close(self) -> Deferred[Any]:
        """Close the file once all work is done, and let another process use it."""
        self._beats.stop()
        self._refuse_early()
        transactions, self._transactions = self._transactions, None
        if self._pause is not None:
            self._pause.cancel()
        if transactions is None:
            # What is being opened in the thread is closed after that.
            if not self._is_opening:
                self._file.unlock()
            return succeed(None)
        return transactions.close().addCallback(lambda _: self._file.unlock())

    def run(self, work: TimedWork[Returned]) -> Deferred[Returned]:
        """Do some work on the tables; what comes while the file is opened is done after that.

        :param work: gets the time of this call, or of the opening if that is later.
        :return: fires once it is safe; fails with :class:`StoreUnreachable`.
        """
        if self._transactions is not None:
            now = self._store_clock.time()
            return self._transactions.add(lambda database: work(database, now))
        if self._early is not None:
            done: Deferred[Returned] = Deferred()
            self._early.append((work, done))
            return done
        self.calls["failed"] += 1
        return fail(StoreUnreachable())

    def receive_soon(self, message: Message) -> None:
        """Pass a message to the listener in a later turn of the reactor, as a network does."""
        self._clock.callLater(0, self._receive, message)

    def _receive(self, message: Message) -> None:
        try:
            self._listener.receive(message)
        except Exception:
            _log.failure("a message about job {job} could not be handled", job=message.job_id)

    def _beat(self) -> Deferred[None]:
        # A loop whose call fails would end for good.
        return Deferred.fromCoroutine(self._look_after()).addErrback(self._log_bug)

    def _log_bug(self, failure: Failure) -> None:
        _log.failure("the store {path} is not looked after", failure, path=self._file.address.path)

    async def _look_after(self) -> None:
        """Open the file if that has not succeeded; write to it if it has failed; clean it up."""
        if self._transactions is None:
            await self._connect()
        transactions = self._transactions
        if transactions is None:
            return
        if transactions.error is not None:
            why = self._file.explain(transactions.error)
            self._report(f"the store {self._file.address.path} {why}")
            if is_loss(transactions.error):
                transactions.refuse()
            elif is_damage(transactions.error):
                await self._let_go(transactions)
            else:
                await self._recover(transactions)
        elif not self._is_current:
            await self._catch_up()
        else:
            await self._sweep(transactions)

    async def _connect(self) -> None:
        """Open the file, and then do the work that came meanwhile, unless that took too long."""
        self._early, self._is_opening = [], True
        timer = self._clock.callLater(self._times.answer, self._refuse_early)
        try:
            await self._open_file()
        finally:
            early, self._early = self._early or [], None
            self._is_opening = False
            if timer.active():
                timer.cancel()
            for work, done in early:
                self.run(work).chainDeferred(done)

    def _refuse_early(self) -> None:
        early, self._early = self._early or [], None
        self.calls["failed"] += len(early)
        for _, done in early:
            done.errback(StoreUnreachable())

    async def _open_file(self) -> None:
        connection = None
        try:
            connection = await self._in_thread(lambda: self._file.open(self._now()))
        except BadStore as error:
            self._report(f"the store {self._file.address.path} {error}")
        if not self._beats.running:
            # The store was closed meanwhile.
            if connection is not None:
                await self._in_thread(connection.close)
            self._file.unlock()
            return
        if connection is None:
            return
        self._store_clock.go_on(self._file.time)
        self._transactions = Transactions(
            self._clock,
            self._in_thread,
            self._times.answer,
            connection,
            self.calls,
            self.durations,
        )

    async def _recover(self, transactions: Transactions) -> None:
        if transactions.error is not None and is_full(transactions.error):
            # What waits to be written would fill it again before the next removal.
            await self._sweep(transactions)
        now, wall = self._store_clock.time(), self._now()
        try:
            await transactions.add(lambda database: sqlite_clock.write(database, now, wall))
        except StoreUnreachable:
            return
        transactions.forget_error()
        await self._catch_up()

    async def _let_go(self, transactions: Transactions) -> None:
        """Close a file that is damaged, which is opened again if it is found to be sound.

        A disk that fails can look like a damaged file, and an operator can restore a backup.
        """
        self._transactions, self._is_current = None, False
        await transactions.close()

    async def _catch_up(self) -> None:
        try:
            await self._listener.catch_up()
        except StoreUnreachable:
            return
        self.is_joined = self._is_current = True
        self._report(None)

    async def _sweep(self, transactions: Transactions) -> None:
        """Remove what has expired, in small steps, so that nothing waits for long."""
        while self._transactions is transactions:
            now = self._store_clock.time()
            try:
                is_clean = await transactions.add(self._make_step(now))
                if is_clean or self._transactions is not transactions:
                    return
                self._pause = deferLater(self._clock, SWEEP_PAUSE)
                await self._pause
            except (StoreUnreachable, CancelledError):
                return
            finally:
                self._pause = None

    def _make_step(self, now: float) -> Work[bool]:
        """Return one step of the removal, which also writes the time if that is due."""
        wall = self._now() if self._store_clock.take_due(now) else None

        def clean(database: Connection) -> bool:
            self._file.check_place()
            is_clean = statements.remove_expired(database, now)
            if wall is not None:
                sqlite_clock.write(database, now, wall)
            return is_clean

        return clean

    def _report(self, trouble: str | None) -> None:
        """Log once what is wrong, and once that it is right again."""
        if trouble == self._trouble:
            return
        if trouble is not None:
            _log.error("{trouble}", trouble=trouble)
        elif self._trouble is not None:
            _log.info("the store {path} can be used again", path=self._file.address.path)
        self._trouble = trouble
