"""The faults of the simulator, each with a rate."""

import random

from attrs import field, frozen

#: All faults, with the default of those that have a duration in seconds.
KINDS: dict[str, float | None] = {
    "drop": None,  # the callback is never sent
    "duplicate": None,  # the callback is sent twice
    "early": None,  # the callback is sent, and gets its response, before the ack
    "late": 35.0,  # the callback is sent so many seconds later
    "reset": None,  # the connection is reset instead of an ack; the job runs
    "refused": 0.001,  # new connections are refused for so many seconds; the job runs
    "busy": 1.0,  # 503 with this many seconds as Retry-After; the job does not run
    "error": None,  # 500; the job does not run
    "garbage": None,  # the ack is not JSON; the job runs
    "slow": 12.0,  # the ack is delayed by so many seconds; the job runs
    "failed": None,  # the job ends with state failed
    "unpaid": None,  # 402; the job does not run
    "limited": 1.0,  # 429 with this many seconds as Retry-After; the job does not run
    "forged": None,  # before the last callback one with a wrong signature is sent
    "unready": None,  # the result after a thin callback is 500 twice
}
#: Those that only the API of a profile can have, and those that it cannot have.
ONLY_PROFILES = frozenset({"unpaid", "limited", "forged", "unready"})
NO_PROFILES = frozenset({"refused"})


@frozen
class Fault:
    """A fault of some of the jobs.

    :param rate: the fraction of jobs that have the fault, 0 to 1.
    :param seconds: for faults with a duration.
    """

    rate: float
    seconds: float = 0.0


@frozen
class Faults:
    """Draws the faults of each job independently.

    :param rates: by kind.
    """

    rates: dict[str, Fault] = field(factory=dict)

    def draw(self, source: random.Random) -> dict[str, Fault]:
        """Return the faults of the next job, by kind."""
        return {kind: fault for kind, fault in self.rates.items() if source.random() < fault.rate}


def read_faults(text: str) -> Faults:
    """Parse a list of ``kind=rate`` or ``kind=rate:seconds``, separated by commas.

    :raises ValueError: with a message that follows the option's name.
    """
    rates: dict[str, Fault] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        kind, _, amount = part.partition("=")
        if kind not in KINDS:
            raise ValueError(f"must name a known fault, not {kind!r}; there are {', '.join(KINDS)}")
        rate, _, seconds = amount.partition(":")
        try:
            fault = Fault(float(rate), float(seconds) if seconds else KINDS[kind] or 0.0)
        except ValueError:
            raise ValueError(f"must be like drop=0.01,slow=0.1:5, not {part!r}") from None
        if not (0 <= fault.rate <= 1 and 0 <= fault.seconds < float("inf")):
            raise ValueError(f"must have rates from 0 to 1 and seconds from 0, not {part!r}")
        rates[kind] = fault
    return Faults(rates)
