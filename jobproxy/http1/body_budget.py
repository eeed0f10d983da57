"""The memory for bodies that have not arrived completely."""

from collections.abc import Callable

from attrs import define, field


@define(eq=False)
class BodyBudget:
    """Counts the bytes of incomplete bodies; many connections share one.

    Small bodies are not counted: their number is bounded by that of the connections.

    :param limit: in bytes.
    :ivar size: bytes of all counted bodies.
    """

    limit: int
    size: int = field(default=0, init=False)

    @property
    def is_exceeded(self) -> bool:
        return self.size > self.limit


#: The budget of a request with this method and target; :data:`None`: its body is of no use, and is
#: dropped.
FindBudget = Callable[[bytes, bytes], BodyBudget | None]
