"""Exponential backoff: how long to pause after a number of failures in a row."""

from random import Random

from attrs import field, frozen

#: Doublings after which the pause is at its maximum in any case; keeps the power a finite float.
MAX_DOUBLINGS = 1_000


@frozen
class Backoff:
    """Computes pauses that double with each failure, up to a maximum.

    :param first: seconds of the first pause, before jitter.
    :param maximum: seconds of the longest pause, before jitter.
    :param random: the source of the jitter; :data:`None`: the pauses have none.
    :param least: the shortest pause as a fraction of the pause before jitter. 0.0 is full jitter:
        anything from no pause to the whole pause.
    """

    first: float
    maximum: float
    random: Random | None = field(default=None, repr=False)
    least: float = 0.0

    def pause(self, failures: int) -> float:
        """Return the seconds to pause after so many failures in a row.

        :param failures: 1 or more.
        """
        longest = min(self.maximum, self.first * 2.0 ** min(failures - 1, MAX_DOUBLINGS))
        if self.random is None:
            return longest
        return self.random.uniform(self.least * longest, longest)
