"""The journal: an event in the log for each change of a job's state."""

from collections.abc import Callable

from attrs import define
from twisted.logger import Logger

from jobproxy.jobs.record import JobRecord, State
from jobproxy.logs import JOB_EVENTS
from jobproxy.wire.problems import Problem

_log = Logger(JOB_EVENTS)


@define(eq=False)
class JobEvents:
    """Tells the log how jobs go, if anybody reads it.

    :param is_wanted: says whether there are to be events; it is asked for each.
    """

    _is_wanted: Callable[[], bool] = lambda: False

    def note(self, record: JobRecord) -> None:
        """Tell of the state that a job has come to."""
        if not self._is_wanted():
            return
        if record.state is State.ENDED:
            outcome = record.outcome
            word = outcome.slug if isinstance(outcome, Problem) else "result"
            ended = record.ended or record.created
            _log.info(
                "job {job} has ended: {outcome}",
                **record.names,
                state=record.state.value,
                id=record.upstream_id,
                outcome="withdrawn" if outcome is None else word,
                started=record.started,
                seconds=round(ended - record.created, 6),
                waiting=len(record.waiters),
            )
        else:
            _log.info(
                "job {job} is {state}",
                **record.names,
                state=record.state.value,
                id=record.upstream_id,
            )

    def note_wait(self, record: JobRecord, end: str) -> None:
        """Tell that somebody does not wait for a job any more, although it goes on."""
        if self._is_wanted():
            _log.info(
                "a client of job {job} {end}",
                **record.names,
                state=record.state.value,
                end=end,
                waiting=len(record.waiters),
            )
