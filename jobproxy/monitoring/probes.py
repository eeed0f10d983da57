"""The parts of a running proxy that can be asked how it is, for metrics and the status."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress

from attrs import frozen

from jobproxy.gateway import Gateway
from jobproxy.http1.agent import PooledAgent
from jobproxy.http1.server import ServerFactory
from jobproxy.monitoring.traffic import Traffic
from jobproxy.util.histogram import Histogram

#: File descriptors that have to be free for a proxy that wants more clients.
SPARE = 8


def has_descriptors() -> bool:
    """Whether this process can open some more files or sockets."""
    opened: list[int] = []
    try:
        with suppress(OSError):
            while len(opened) < SPARE:
                opened.append(os.dup(0))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return len(opened) == SPARE


@frozen(eq=False)
class Probes:
    """The parts of a proxy that keep count of what they do.

    :param factories: one for each kind of port; may still grow.
    :param traffic: the observer of all these factories.
    :param lag: how late the event loop was.
    :param count_dropped: returns how many log lines were dropped, by reason.
    :param has_descriptors: says whether there are files that can be opened.
    """

    gateway: Gateway
    factories: Sequence[ServerFactory]
    traffic: Traffic
    agent: PooledAgent
    lag: Histogram
    count_dropped: Callable[[], dict[str, int]] = dict
    has_descriptors: Callable[[], bool] = has_descriptors

    @property
    def connections(self) -> int:
        """How many connections to us there are."""
        return sum(len(factory.connections) for factory in self.factories)

    def reasons_not_ready(self) -> list[str]:
        """Return why jobs had better go to another proxy; none if this one wants them."""
        reasons = self.gateway.reasons_not_ready()
        if not self.has_descriptors():
            reasons.append("no-file-descriptors")
        return reasons
