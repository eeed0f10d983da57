"""The values of the labels by which is counted: all that can occur, so that all are exported as 0.

Prometheus finds no increase in a series that begins with its first event.
"""

from typing import get_args

from jobproxy.cluster.coordinator import CALL_RESULTS, RELAY_RESULTS
from jobproxy.http1.errors import ConnectionFault, RequestFault
from jobproxy.jobs.delivery import REFUSED_RESULTS, Delivery
from jobproxy.logs import DROP_REASONS
from jobproxy.upstream.start_errors import StartResult
from jobproxy.wire.problems import Kind

STARTS: tuple[str, ...] = get_args(StartResult)
CALLBACKS: tuple[str, ...] = (
    *(delivery.value for delivery in Delivery if not delivery.is_refused),
    *dict.fromkeys(REFUSED_RESULTS.values()),
    "forged",
    "unsigned",
)
#: Of connections and requests without a route.
REFUSED: tuple[str, ...] = (*get_args(RequestFault), *get_args(ConnectionFault))
LOG_DROPPED = DROP_REASONS
STORE_CALLS = CALL_RESULTS
RELAYS = RELAY_RESULTS
SIDES = ("client", "callback", "admin")
#: The outcome of 202 to a client: its job has not ended.
RUNNING = "running"
#: The outcome of a client that got no result within a time of its own choice.
OWN_WAIT_OVER = "own-wait-over"
#: The class of status and the outcome of responses.
RESPONSES: tuple[tuple[str, str], ...] = (
    ("2xx", "ok"),
    ("2xx", RUNNING),
    ("5xx", OWN_WAIT_OVER),
    ("4xx", "client-left"),
    *((f"{(kind.status or 400) // 100}xx", kind.slug) for kind in Kind),
    ("5xx", Kind.UPSTREAM_BUSY.slug),
)
