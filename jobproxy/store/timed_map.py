"""A map whose values each have a time to live of their own."""

from typing import Generic, TypeVar

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

Value = TypeVar("Value")


@define(eq=False)
class TimedMap(Generic[Value]):
    """Values by key, each with its own time to live."""

    _clock: IReactorTime
    _entries: dict[str, tuple[Value, float]] = field(factory=dict, init=False)

    def put(self, key: str, value: Value, seconds: float) -> None:
        self._entries[key] = (value, self._clock.seconds() + seconds)

    def get(self, key: str) -> Value | None:
        value, until = self._entries.get(key, (None, 0.0))
        return value if until > self._clock.seconds() else None

    def change(self, key: str, value: Value) -> None:
        """Replace the value of a key, which keeps its time."""
        self._entries[key] = (value, self._entries[key][1])

    def remove(self, key: str) -> None:
        self._entries.pop(key, None)
