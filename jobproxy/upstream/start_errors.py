"""How a start request can fail, and what that means for the job and the job server."""

from enum import Enum
from typing import Literal

from jobproxy.wire.problems import Problem

#: How a start request can end, a label of the metrics.
StartResult = Literal[
    "acknowledged",
    "no-id",
    "inline",
    "refused",
    "dns",
    "no-connection",
    "busy",
    "unreachable",
    "no-socket",
    "rejected",
    "auth",
    "redirect",
    "untrusted",
    "lost",
    "timeout",
    "error",
    "crash",
]


class Health(Enum):
    """What the end of a start request shows about the job server."""

    ALIVE = "alive"
    #: No connection can be made.
    DEAD = "dead"
    #: No complete response came; the job may have been started all the same.
    LOST = "lost"
    #: It responded with an error of its own.
    ERROR = "error"
    #: Nothing: the request ended for a reason in the proxy.
    UNKNOWN = "unknown"


class NotStarted(Exception):
    """The start request certainly was not read, or it was refused.

    :param problem: the job's outcome, if the request is not sent again.
    :param may_retry: whether sending it again can help.
    """

    def __init__(
        self, problem: Problem, result: StartResult, health: Health, *, may_retry: bool = False
    ) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.result = result
        self.health = health
        self.may_retry = may_retry


class AmbiguousStart(Exception):
    """The start request may have reached the job server, although no usable ack came back."""

    def __init__(self, reason: str, result: StartResult, health: Health) -> None:
        super().__init__(reason)
        self.result = result
        self.health = health
