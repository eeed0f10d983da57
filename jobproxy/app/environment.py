"""What a proxy uses of the world outside."""

import os
from binascii import hexlify
from collections.abc import Callable
from random import Random
from typing import Any

from attrs import field, frozen

from jobproxy import logs
from jobproxy.daemon.process import read_file_limit
from jobproxy.http1.client import PlainClient
from jobproxy.jobs.end_watch import JobEnded
from jobproxy.jobs.index import PARKED
from jobproxy.jobs.retention import Bounds
from jobproxy.monitoring.probes import Pool, has_descriptors
from jobproxy.store.interface import IStore


def make_request_id() -> bytes:
    """Return a new random request id."""
    return hexlify(os.urandom(8))


@frozen(eq=False, kw_only=True)
class Environment:
    """What a proxy uses of the world outside.

    :param reactor: makes connections; its time is monotonic.
    :param client: sends start requests.
    :param pool: the client's connections.
    :param store: shared with other nodes; :data:`None`: there are none.
    :param random: the jitter of retries.
    :param now: returns Unix time in seconds.
    :param node: the name of this node, which no other process has or had.
    :param stop: stops the process as the first SIGTERM does; may be called at any time.
    :param bounds: of each map of the retention.
    :param parked_bounds: of callbacks that wait for the ack of their job.
    :param entropy: returns the given number of random bytes.
    :param make_request_id: returns an id for a request that has none.
    :param wants_events: returns whether to write job events to the log.
    :param count_dropped: returns how many log lines were dropped, by reason.
    :param job_ended: is called when a job has ended; :data:`None`: nobody has to know.
    :param file_limit: how many files this process may have open.
    :param has_descriptors: returns whether there are free file descriptors.
    """

    reactor: Any
    client: PlainClient
    pool: Pool
    store: IStore | None
    random: Random
    now: Callable[[], float]
    node: str
    stop: Callable[[], object]
    bounds: Bounds = field(factory=Bounds)
    parked_bounds: Bounds = PARKED
    entropy: Callable[[int], bytes] = os.urandom
    make_request_id: Callable[[], bytes] = make_request_id
    wants_events: Callable[[], bool] = logs.is_on
    count_dropped: Callable[[], dict[str, int]] = logs.count_dropped
    job_ended: JobEnded | None = None
    file_limit: int = field(factory=read_file_limit)
    has_descriptors: Callable[[], bool] = has_descriptors
