"""Splitting a long series into lists that are small enough to be handled at once."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


#: So many items are handled in one turn of the reactor, or in one call of the store.
CHUNK = 256


def chunked(items: Iterable[Item], size: int = CHUNK) -> Iterator[list[Item]]:
    """Yield the items in order, in lists of ``size``; the last list may be shorter.

    :param items: is read only as far as the next list needs.
    """
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
