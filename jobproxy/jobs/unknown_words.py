"""States of callbacks that are no known words, and may have been meant as progress."""

from attrs import define, field
from twisted.logger import Logger

from jobproxy.jobs.delivery import Delivery

_log = Logger()

#: How many words are logged, and how many characters of each.
MAX_WORDS, MAX_WORD = 20, 50


@define(eq=False)
class UnknownWords:
    """Logs each word once."""

    _seen: set[str] = field(factory=set, init=False)

    def note(self, word: str, delivery: Delivery) -> None:
        """Log a word that has ended its job, unless it was logged before."""
        word = word[:MAX_WORD]
        is_full = len(self._seen) >= MAX_WORDS
        if delivery is not Delivery.ACCEPTED or word in self._seen or is_full:
            return
        self._seen.add(word)
        _log.warn(
            "a callback with the state {word!r} ended its job: it is no known word of progress",
            word=word,
        )
