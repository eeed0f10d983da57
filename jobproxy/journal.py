"""The journal: an event in the log for each change of a job's state."""

from collections.abc import Callable

from attrs import define
from twisted.logger import Logger

from jobproxy.entries import Entry, State
from jobproxy.problems import Problem

_log = Logger()


@define(eq=False)
class Journal:
    """Tells the log how jobs go, if anybody reads it.

    :param is_wanted: says whether there are to be events; it is asked for each.
    """

    _is_wanted: Callable[[], bool] = lambda: False

    def note(self, entry: Entry) -> None:
        """Tell of the state that a job has come to."""
        if not self._is_wanted():
            return
        if entry.state is State.ENDED:
            outcome = entry.outcome
            word = outcome.slug if isinstance(outcome, Problem) else "result"
            ended = entry.ended or entry.created
            _log.info(
                "job {job} has ended: {outcome}",
                **entry.names,
                state=entry.state.value,
                id=entry.job_id,
                outcome="withdrawn" if outcome is None else word,
                started=entry.started,
                seconds=round(ended - entry.created, 6),
                waiting=len(entry.waiters),
            )
        else:
            _log.info(
                "job {job} is {state}", **entry.names, state=entry.state.value, id=entry.job_id
            )

    def note_wait(self, entry: Entry, end: str) -> None:
        """Tell that somebody does not wait for a job any more, although it goes on."""
        if self._is_wanted():
            _log.info(
                "a client of job {job} {end}",
                **entry.names,
                state=entry.state.value,
                end=end,
                waiting=len(entry.waiters),
            )
