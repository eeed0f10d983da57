"""Probes: what the metrics and the status read from the parts of a running proxy."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from attrs import frozen

from jobproxy.gateway import Gateway
from jobproxy.monitoring.traffic import Traffic
from jobproxy.util.histogram import Histogram

#: File descriptors that must be free for the proxy to accept new jobs.
SPARE = 8


def has_descriptors() -> bool:
    """Return whether this process can open :data:`SPARE` more files or sockets."""
    opened: list[int] = []
    try:
        with suppress(OSError):
            while len(opened) < SPARE:
                opened.append(os.dup(0))
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return len(opened) == SPARE


class Pool(Protocol):
    """Connections to the job server."""

    @property
    def active(self) -> int:
        """How many have a request under way."""

    @property
    def idle(self) -> int:
        """How many wait for a request."""

    def close_idle(self) -> None:
        """Close all connections that wait for a request."""


@frozen(eq=False)
class Probes:
    """The parts of a proxy that count what they do.

    :param gateways: of each job server; they share the table and the coordinator.
    :param traffic: the observer of all servers.
    :param agent: the connections to the job server.
    :param lag: the reactor lag.
    :param count_dropped: returns the numbers of dropped log lines by reason.
    :param count_kept: returns the bytes of all that is kept in memory, by what it is.
    :param has_descriptors: returns whether there are free file descriptors.
    """

    gateways: Sequence[Gateway]
    traffic: Traffic
    agent: Pool
    lag: Histogram
    count_dropped: Callable[[], dict[str, int]] = dict
    count_kept: Callable[[], dict[str, int]] = dict
    has_descriptors: Callable[[], bool] = has_descriptors

    @property
    def gateway(self) -> Gateway:
        """Any of the gateways, for what they share."""
        return self.gateways[0]

    @property
    def callbacks(self) -> Counter[str]:
        """The numbers of callbacks, by what became of them."""
        return sum((gateway.callbacks for gateway in self.gateways), Counter())

    def reasons_not_ready(self) -> list[str]:
        """Return why the proxy does not accept new jobs; empty if it does."""
        reasons = self.gateway.reasons_not_ready()
        if not self.has_descriptors():
            reasons.append("no-file-descriptors")
        return reasons

    def list_warnings(self) -> list[str]:
        """Return what is wrong although the proxy accepts new jobs."""
        # What is wrong with one job server does not concern the jobs of the others.
        is_away = not any(each.starter.job_server.circuit.allows for each in self.gateways)
        warnings = ["job-server-unreachable"] if is_away else []
        if any(gateway.is_unheard for gateway in self.gateways):
            warnings.append("no-callback-yet")
        return warnings
