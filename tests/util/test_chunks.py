"""Chunks: every item is in one list, in order, and no list is too long."""

from itertools import count

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.util.chunks import chunked


class ChunkTests(SynchronousTestCase):
    def test_last_chunk_has_the_rest(self) -> None:
        """All lists have the size but the last, which has what is left."""
        self.assertEqual(list(chunked("abcdefg", 3)), [["a", "b", "c"], ["d", "e", "f"], ["g"]])

    def test_no_chunk_is_empty(self) -> None:
        """Neither nothing nor a multiple of the size gives an empty list."""
        self.assertEqual(list(chunked([], 3)), [])
        self.assertEqual(list(chunked([1, 2], 2)), [[1, 2]])

    def test_items_are_read_as_they_are_needed(self) -> None:
        """An endless series can be chunked."""
        self.assertEqual(next(chunked(count(), 2)), [0, 1])
