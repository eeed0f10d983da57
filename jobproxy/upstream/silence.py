"""Silence: jobs are acknowledged, and no callback has ever come, as the URL is mostly wrong."""

from collections.abc import Mapping
from typing import cast

from attrs import define, evolve, field
from twisted.logger import Logger
from twisted.python.failure import Failure

from jobproxy.wire.problems import Kind, ProblemError

_log = Logger()

#: Acks without any callback after which something must be wrong.
UNHEARD = 20
EXPLANATION = (
    "No callback has come to this proxy yet: its operator should check that the job server can "
    "reach the callback URL."
)


@define(eq=False)
class Silence:
    """Notices that no callback comes at all.

    :param results: the numbers of start requests, by result.
    """

    _results: Mapping[str, int]
    _has_warned: bool = field(default=False, init=False)

    def is_broken(self, callbacks: Mapping[str, int]) -> bool:
        """Whether many jobs were acknowledged, and no callback has ever come.

        :param callbacks: their numbers, by what became of them.
        """
        acks = self._results.get("acknowledged", 0) + self._results.get("no-id", 0)
        return not callbacks and acks >= UNHEARD

    def warn(self, callbacks: Mapping[str, int]) -> None:
        """Log once that no callback has ever come."""
        if self.is_broken(callbacks) and not self._has_warned:
            self._has_warned = True
            _log.error(
                "{number} jobs were acknowledged, and no callback has ever come: can the job "
                "server reach the callback URL?",
                number=UNHEARD,
            )

    def explain(self, failure: Failure, callbacks: Mapping[str, int]) -> Failure:
        """Say in a ``wait-over`` what is mostly wrong if no callback has ever come."""
        if failure.check(ProblemError) and not callbacks:
            problem = cast(ProblemError, failure.value).problem
            if problem.kind is Kind.WAIT_OVER:
                raise ProblemError(evolve(problem, detail=f"{problem.detail} {EXPLANATION}"))
        return failure
