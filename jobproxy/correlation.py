"""The correlation table: which client waits for which job, and what became of the others."""

from collections.abc import Callable, Iterator
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from jobproxy.deadlines import Deadline, do_nothing
from jobproxy.entries import NO_ORIGIN, Delivery, Entry, Origin, State, Waiter
from jobproxy.journal import Journal
from jobproxy.messages import Report
from jobproxy.problems import Draining, Problem
from jobproxy.quiet import Quiet
from jobproxy.shelves import Shelves
from jobproxy.tallies import Histogram

_log = Logger()


@define(eq=False)
class CorrelationTable(Service):
    """Stores a Deferred for each held client and fires it when the job's callback arrives.

    An entry is made before the start call, so that no callback can come too early. It has at most
    one outcome. A deadline ends a client's wait, not the job: the entry stays, without anybody
    waiting, until the callback comes or its token is no longer good, and then for as long as
    results are retained.

    :param retain: seconds that outcomes are kept.
    """

    _clock: IReactorTime
    _retain: float
    _journal: Journal = field(factory=Journal, kw_only=True)
    _entries: dict[str, Entry] = field(factory=dict, init=False, repr=False)
    _aliases: dict[bytes, Entry] = field(factory=dict, init=False, repr=False)
    _shelves: Shelves = field(init=False, repr=False)
    #: How many clients wait for their answer.
    held: int = field(default=0, init=False)
    #: From the request for a job to its result.
    durations: Histogram = field(factory=Histogram, init=False, repr=False)
    _quiet: Quiet = field(factory=Quiet, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._shelves = Shelves(self._clock, self._retain, self._forget)

    def __len__(self) -> int:
        """Return how many jobs have not ended, those included that nobody waits for."""
        return len(self._entries) - self._shelves.retained

    @property
    def retained(self) -> int:
        """How many outcomes are kept."""
        return self._shelves.retained

    @property
    def retained_bytes(self) -> int:
        """About how many bytes they take."""
        return self._shelves.retained_bytes

    def expect(
        self,
        handle: str,
        withdraw: Callable[[], object],
        *,
        alias: bytes | None = None,
        fingerprint: bytes = b"",
        origin: Origin = NO_ORIGIN,
    ) -> Entry:
        """Make a job's entry; to be called before it is started, and followed by :meth:`wait`.

        :param handle: the job's handle, not in use yet.
        :param withdraw: is called when the job ends, or its last client goes, before it has been
            started.
        :param alias: another name for it, taken away from the job that had it before.
        :param origin: what the log is to know of it.
        """
        if handle in self._entries:
            raise ValueError("this handle is in use")
        entry = Entry(handle, self._clock.seconds(), alias, fingerprint, withdraw, origin=origin)
        self._entries[handle] = entry
        if alias is not None:
            self._aliases[alias] = entry
        self._journal.note(entry)
        return entry

    def adopt(
        self,
        handle: str,
        ack: Report | None,
        *,
        alias: bytes | None = None,
        fingerprint: bytes = b"",
    ) -> Entry:
        """Make an entry for a job that may have been started elsewhere; others know more of it.

        :param handle: not in use here.
        :param ack: the answer to its start, if that is known.
        """
        entry = self.expect(handle, do_nothing, alias=alias, fingerprint=fingerprint)
        self.hand_over(entry, ack)
        self._shelves.move(entry, self._shelves.unattended)
        return entry

    def hand_over(self, entry: Entry, ack: Report | None) -> None:
        """Note that a job may have been started elsewhere, and is not to be started here."""
        if entry.state is not State.ENDED:
            entry.is_detached, entry.starts = True, 1
            self.advance(entry, State.RUNNING, ack=ack)

    def wait(
        self,
        entry: Entry,
        seconds: float,
        *,
        until: State = State.ENDED,
        takes_state: bool = False,
        is_poll: bool = False,
    ) -> Deferred[Entry]:
        """Wait for a job; any number may.

        :param seconds: the time until the deadline.
        :param until: :attr:`State.RUNNING` if the ack is enough.
        :param takes_state: whether to fire at the deadline too, with a job that has not ended; not
            if it is not known whether it was started. Who is told so can come and ask for the
            result, so that from then on the job goes on without anybody waiting.
        :param is_poll: whether this is somebody who only asks how the job goes: it is told at the
            deadline whatever that is, and is no reason to start the job.
        :return: fires with the entry when it has a result, or fails with a :class:`Problem`.
            Cancel it when the client has left.
        """
        if entry.outcome is not None:
            if entry.shelf is self._shelves.orphans:
                self._shelves.move(entry, self._shelves.outcomes)
            return fail(entry.outcome) if isinstance(entry.outcome, Problem) else succeed(entry)
        if until is State.RUNNING and entry.ack is not None:
            entry.is_detached = True
            return succeed(entry)
        self._shelves.move(entry, None)
        waiter = Waiter(entry, until, takes_state, is_poll)
        waiter.answered = Deferred(lambda _: self._abandon(waiter))
        waiter.deadline = Deadline(self._clock, seconds, lambda: self._expire(waiter))
        entry.waiters = (*entry.waiters, waiter)
        self.held += 1
        return waiter.answered

    def find(self, handle: str) -> Entry | None:
        """Return what is known of a job."""
        return self._entries.get(handle)

    def find_alias(self, alias: bytes) -> Entry | None:
        """Return the job that has this other name."""
        return self._aliases.get(alias)

    def advance(
        self,
        entry: Entry,
        state: State,
        *,
        ack: Report | None = None,
        withdraw: Callable[[], object] | None = None,
    ) -> None:
        """Note how far a job has come; nothing happens if it has ended already.

        :param ack: the job server's answer to the start, once there is one. If it has an id, a
            callback with another one is refused.
        :param withdraw: see :meth:`expect`; given as long as the job can be kept from being
            started (again).
        """
        if entry.state is State.ENDED:
            return
        if ack is not None:
            entry.job_id = ack.job_id or entry.job_id
            entry.ack = ack
            entry.heard = entry.acked = self._clock.seconds()
        self._set_state(entry, state)
        entry.withdraw = withdraw
        if state is State.STARTING:
            entry.starts += 1
            entry.sent = entry.sent or self._clock.seconds()
        if ack is not None:
            for waiter in entry.waiters:
                if waiter.until is State.RUNNING:
                    entry.is_detached = True
                    self._dismiss(waiter).callback(entry)
            self._tell_idle()

    def conclude(self, entry: Entry, ack: Report) -> None:
        """Take an ack that is the job's result; nothing happens if it has one already."""
        if entry.state is not State.ENDED:
            entry.job_id = ack.job_id or entry.job_id
            entry.acked = self._clock.seconds()
            self._end(entry, ack)

    def retract(self, entry: Entry, withdraw: Callable[[], object]) -> None:
        """Note that the last start call certainly was not read, or was refused.

        :param withdraw: see :meth:`expect`.
        """
        if entry.state is State.ENDED:
            return
        entry.starts -= 1
        states = {"no": State.QUEUED, "unknown": State.UNCONFIRMED, "yes": State.RUNNING}
        entry.withdraw = withdraw
        self._set_state(entry, states[entry.started])

    def shorten(self, entry: Entry, seconds: float) -> None:
        """Bring the deadlines of all who wait forward, unless they are sooner.

        :param seconds: the time from now until the new deadline.
        """
        at = self._clock.seconds() + seconds
        for waiter in entry.waiters:
            waiter.deadline.bring_forward(at)

    def complete(self, handle: str, report: Report) -> Delivery:
        """Take what the job server says of a job, and answer who waits if that ends the job.

        :raises CallbackConflict: if it names another job than the ack did, or if the job has
            another result already; nothing has changed.
        """
        entry = self._entries.get(handle)
        if entry is None:
            if report.is_progress:
                return Delivery.LATE
            # It was forgotten, or we were restarted.
            entry = self._entries[handle] = Entry(handle, self._clock.seconds())
            entry.overdue = entry.created
        entry.check_id(report)
        if report.is_progress:
            entry.heard = self._clock.seconds()
            return Delivery.PROGRESS
        if entry.result is not None:
            return entry.compare(report)
        is_over = entry.overdue is not None or entry.outcome is not None
        delivery = Delivery.LATE if is_over and not entry.waiters else Delivery.ACCEPTED
        entry.job_id = report.job_id or entry.job_id
        self._end(entry, report)
        return delivery

    def fail(self, entry: Entry, problem: Problem) -> None:
        """End a job that was not started; nothing happens if it has ended already."""
        if entry.state is not State.ENDED:
            problem.forget_origin()
            self._end(entry, entry.mark(problem))

    def fail_queued(self, make_problem: Callable[[], Problem]) -> None:
        """End all jobs that have not been started."""
        for entry in list(self._entries.values()):
            if entry.state is State.QUEUED:
                self.fail(entry, make_problem())

    def unended(self) -> Iterator[Entry]:
        """Return the jobs that have not ended, the oldest first."""
        return (entry for entry in self._entries.values() if entry.state is not State.ENDED)

    def aliased(self) -> list[Entry]:
        """Return the jobs that can be asked for by another name."""
        return list(self._aliases.values())

    def orphans(self) -> list[Entry]:
        """Return the jobs whose result nobody waited for or asked for since, the oldest first."""
        return list(self._shelves.orphans)

    def when_idle(self) -> Deferred[None]:
        """Wait until nobody is held."""
        return self._quiet.wait(is_quiet=not self.held)

    def find_orphan(self, handle: str) -> bytes | None:
        """Return the body of an orphan, if there is one of this handle."""
        entry = self._shelves.orphans.find(handle)
        return None if entry is None or entry.result is None else entry.result.body

    def drop_orphan(self, handle: str) -> None:
        """Forget an orphan."""
        entry = self._shelves.orphans.find(handle)
        if entry is not None:
            self._shelves.move(entry, None)
            self._forget(entry)

    def stopService(self) -> Any:
        """Answer every held client that the proxy stops, and forget everything."""
        for entry in list(self._entries.values()):
            for waiter in entry.waiters:
                problem = Draining(
                    "The proxy was stopped while the job was waited for.", retry_after=1
                )
                problem.started = entry.started
                self._dismiss(waiter).errback(entry.mark(problem))
            self._forget(entry)
        self._shelves.clear()
        self._tell_idle()
        return super().stopService()

    def _end(self, entry: Entry, outcome: Report | Problem) -> None:
        """Give a job its outcome; it is on its shelf before anybody is told, who may ask again."""
        waiters, withdraw = entry.waiters, entry.withdraw
        is_orphan = isinstance(outcome, Report) and not (waiters or entry.is_detached)
        now = self._clock.seconds()
        entry.state, entry.outcome, entry.ended = State.ENDED, outcome, now
        if entry.sent is not None and isinstance(outcome, Report):
            self.durations.observe(now - entry.created)
        self._journal.note(entry)
        entry.ack = entry.withdraw = None
        answers = [self._dismiss(waiter) for waiter in waiters]
        self._shelves.move(entry, self._shelves.orphans if is_orphan else self._shelves.outcomes)
        if is_orphan:
            self._report_orphan(entry, now)
        if withdraw is not None:
            withdraw()
        for answer in answers:
            if isinstance(outcome, Report):
                answer.callback(entry)
            else:
                answer.errback(outcome)
        self._tell_idle()

    def _set_state(self, entry: Entry, state: State) -> None:
        if entry.state is not state:
            entry.state = state
            self._journal.note(entry)

    def _report_orphan(self, entry: Entry, now: float) -> None:
        when = "after its client had left"
        if entry.overdue is not None:
            when = f"{now - entry.overdue:.3f} s too late"
        _log.warn("the result of job {job} came {when}; it is kept", **entry.names, when=when)

    def _forget(self, entry: Entry) -> None:
        """Know nothing of a job any more; an ack of its start may still come."""
        withdraw, entry.withdraw = entry.withdraw, None
        self._set_state(entry, State.ENDED)
        entry.shelf = None
        del self._entries[entry.handle]
        if entry.alias is not None and self._aliases.get(entry.alias) is entry:
            del self._aliases[entry.alias]
        if withdraw is not None:
            withdraw()

    def _dismiss(self, waiter: Waiter) -> Deferred[Entry]:
        """Count somebody who waits no longer; who is told next may call us again.

        :return: what is to be fired. The waiter knows it no longer: as it knows the waiter, so as
            to be cancelled, both would be garbage that only the collector finds.
        """
        entry = waiter.entry
        entry.waiters = tuple(other for other in entry.waiters if other is not waiter)
        waiter.deadline.cancel()
        self.held -= 1
        stays = entry.is_detached or entry.state is not State.QUEUED
        if stays and entry.state is not State.ENDED and not entry.waiters:
            self._shelves.move(entry, self._shelves.unattended)
        answered = waiter.answered
        del waiter.answered
        return answered

    def _tell_idle(self) -> None:
        """Tell who waits for it if nobody is held; called once those who were know their answer."""
        if not self.held:
            self._quiet.tell()

    def _abandon(self, waiter: Waiter) -> None:
        entry = waiter.entry
        self._dismiss(waiter)
        if entry.state is State.QUEUED and not entry.is_wanted:
            if entry.waiters:
                self._end(entry, entry.overrun())
            else:
                self._forget(entry)
        if entry.state is not State.ENDED:
            self._journal.note_wait(entry, "left")
        self._tell_idle()

    def _expire(self, waiter: Waiter) -> None:
        entry = waiter.entry
        wants_state = waiter.takes_state and entry.state is not State.UNCONFIRMED
        entry.is_detached |= wants_state
        answered = self._dismiss(waiter)
        problem = entry.overrun()
        if entry.is_wanted and problem.started == "no":
            # It will be started for those who go on waiting.
            problem.started = "unknown"
        if not (waiter.is_poll or entry.is_wanted):
            entry.overdue = self._clock.seconds()
            if entry.state is State.QUEUED:
                self._end(entry, problem)
        if entry.outcome is None and not waiter.is_poll:
            self._journal.note_wait(entry, "has waited for as long as it may")
        if (waiter.is_poll or wants_state) and entry.outcome is None:
            answered.callback(entry)
        else:
            answered.errback(problem)
        self._tell_idle()
