"""The memory for bodies that have not arrived completely."""

from attrs import define, field


@define(eq=False)
class BodyBudget:
    """Counts the bytes of incomplete bodies; all connections of a process share one.

    Small bodies are not counted: their number is bounded by that of the connections.

    :param limit: in bytes.
    :ivar size: bytes of all counted bodies.
    """

    limit: int
    size: int = field(default=0, init=False)

    @property
    def is_exceeded(self) -> bool:
        return self.size > self.limit
