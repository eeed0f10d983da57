"""Problems that tests expect."""

from types import TracebackType

from attrs import define, field

from jobproxy.wire.problems import Kind, Problem, ProblemError


@define(eq=False)
class refuses:  # noqa: N801 - reads as a statement
    """A context that has to end with a problem of this kind.

    :ivar problem: the one that it ended with.
    """

    kind: Kind
    problem: Problem = field(init=False)

    def __enter__(self) -> "refuses":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        assert isinstance(error, ProblemError), f"not refused, but {error!r}"
        assert error.problem.kind is self.kind, error
        self.problem = error.problem
        return True
