"""The correlation table: which client waits for which job."""

from collections.abc import Callable
from enum import Enum
from typing import Any

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from jobproxy.messages import Report
from jobproxy.problems import CallbackConflict, Draining, Problem, Started, StartUnknown, WaitOver


class State(Enum):
    """How far a job has come."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    #: The start may have reached the job server, although no usable ack came back.
    UNCONFIRMED = "unconfirmed"


class Delivery(Enum):
    """What became of a callback that is ours."""

    ACCEPTED = "accepted"
    PROGRESS = "progress"
    #: Nothing is known of the job any more: it ended, its deadline passed, or we were restarted.
    LATE = "late"


_STARTED: dict[State, Started] = {
    State.QUEUED: "no",
    State.STARTING: "unknown",
    State.RUNNING: "yes",
    State.UNCONFIRMED: "unknown",
}


@define(eq=False)
class _Entry:
    table: "CorrelationTable"
    handle: str
    #: Gives up the job's place in its queue, as long as it has not been started.
    withdraw: Callable[[], object] | None
    deadline: IDelayedCall = field(init=False)
    #: :data:`None` once the client has left.
    waiter: Deferred[Report] | None = field(init=False)
    state: State = State.QUEUED
    job_id: str | None = None

    def abandon(self, _: Deferred[Report]) -> None:
        self.table._abandon(self)


@define(eq=False)
class CorrelationTable(Service):
    """Stores a Deferred for each held client and fires it when the job's callback arrives.

    An entry is made before the start call, so that no callback can come too early. It ends with
    the job's result, with a problem, or at its deadline, whichever is first; stopping the service
    ends all. A client that leaves takes its Deferred along, not the entry.
    """

    _clock: IReactorTime
    _entries: dict[str, _Entry] = field(factory=dict, init=False, repr=False)
    #: How many clients wait for their answer.
    held: int = field(default=0, init=False)

    def __len__(self) -> int:
        """Return how many jobs have not ended, those included whose client has left."""
        return len(self._entries)

    def expect(
        self, handle: str, seconds: float, withdraw: Callable[[], object]
    ) -> Deferred[Report]:
        """Wait for a job's result; to be called before the job is started.

        :param handle: the job's handle, not in use yet.
        :param seconds: the time until the deadline.
        :param withdraw: is called if the job ends before it has been started.
        :return: fires with the callback that ended the job, or fails with a :class:`Problem`.
            Cancel it when the client has left.
        """
        if handle in self._entries:
            raise ValueError("this handle is in use")
        entry = self._entries[handle] = _Entry(self, handle, withdraw)
        entry.deadline = self._clock.callLater(seconds, self._expire, entry)
        waiter: Deferred[Report] = Deferred(entry.abandon)
        entry.waiter = waiter
        self.held += 1
        return waiter

    def advance(self, handle: str, state: State, job_id: str | None = None) -> None:
        """Note how far a job has come; nothing happens if it has ended already.

        :param job_id: the job server's id of the job, once it is known: a callback with another
            one is refused.
        """
        entry = self._entries.get(handle)
        if entry is not None:
            entry.state = state
            entry.withdraw = None
            entry.job_id = job_id or entry.job_id

    def shorten(self, handle: str, seconds: float) -> None:
        """Bring a job's deadline forward; nothing happens if it is sooner, or the job has ended.

        :param seconds: the time from now until the new deadline.
        """
        entry = self._entries.get(handle)
        if entry is not None and self._clock.seconds() + seconds < entry.deadline.getTime():
            entry.deadline.reset(seconds)

    def complete(self, handle: str, report: Report) -> Delivery:
        """Take what the job server says of a job, and answer the client if that ends the job.

        :raises CallbackConflict: if it names another job than the ack did; nothing has changed.
        """
        entry = self._entries.get(handle)
        if entry is None:
            return Delivery.LATE
        if entry.job_id and report.job_id and entry.job_id != report.job_id:
            raise CallbackConflict("The id is not the one that the start of this job was given.")
        if report.is_progress:
            return Delivery.PROGRESS
        waiter = self._remove(entry)
        if waiter is not None:
            waiter.callback(report)
        return Delivery.ACCEPTED

    def fail(self, handle: str, problem: Problem) -> None:
        """End a job with a problem; nothing happens if it has ended already."""
        entry = self._entries.get(handle)
        if entry is None:
            return
        problem.job, problem.job_id = handle, entry.job_id
        waiter = self._remove(entry)
        if waiter is not None:
            waiter.errback(problem)

    def stopService(self) -> Any:
        """Answer every held client that the proxy stops."""
        for handle, entry in list(self._entries.items()):
            problem = Draining("The proxy was stopped while the job was waited for.", retry_after=1)
            problem.started = _STARTED[entry.state]
            self.fail(handle, problem)
        return super().stopService()

    def _remove(self, entry: _Entry) -> Deferred[Report] | None:
        """Forget an entry before its Deferred is fired, since whoever waits may call us again."""
        del self._entries[entry.handle]
        if entry.deadline.active():
            entry.deadline.cancel()
        if entry.withdraw is not None:
            entry.withdraw()
        if entry.waiter is not None:
            self.held -= 1
        return entry.waiter

    def _abandon(self, entry: _Entry) -> None:
        if entry.state is State.QUEUED:
            self._remove(entry)
        else:
            entry.waiter = None
            self.held -= 1

    def _expire(self, entry: _Entry) -> None:
        state = entry.state
        if state in (State.STARTING, State.UNCONFIRMED):
            problem: Problem = StartUnknown(
                "The job server did not confirm the start, and no callback came; "
                "the job may run or may have run."
            )
        elif state is State.QUEUED:
            problem = WaitOver(
                "The job was not started: others of its account came first.", retry_after=1
            )
        else:
            problem = WaitOver("The job was started, but its callback did not come in time.")
        problem.started = _STARTED[state]
        self.fail(entry.handle, problem)
