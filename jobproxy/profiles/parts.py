"""The parts of a profile: frozen values in frozen values."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from attrs import fields, has

Part = TypeVar("Part")


def find_parts(value: Any, kind: type[Part]) -> Iterator[Part]:
    """Yield the parts of a kind in a value; those that are in one of them are not looked for."""
    if isinstance(value, kind):
        yield value
    elif has(type(value)):
        for field in fields(type(value)):
            yield from find_parts(getattr(value, field.name), kind)
    elif isinstance(value, Mapping):
        yield from find_parts(list(value.values()), kind)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from find_parts(item, kind)
