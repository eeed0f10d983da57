"""How a start request can fail, and what each way says about the job and the job server."""

from enum import Enum

from jobproxy.wire.problems import Problem


class Health(Enum):
    """What the end of a start request says about the job server."""

    ALIVE = "alive"
    #: No connection, no response, or an error of the server.
    DEAD = "dead"
    #: Nothing; the request ended for a reason of our own.
    UNKNOWN = "unknown"


class NotStarted(Exception):
    """The start request provably never left, or was refused.

    :param problem: what the job's clients are told if it is not sent again.
    :param result: one word for the metrics.
    :param may_retry: whether it makes sense to send it again.
    """

    def __init__(
        self, problem: Problem, result: str, health: Health, *, may_retry: bool = False
    ) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.result = result
        self.health = health
        self.may_retry = may_retry


class AmbiguousStart(Exception):
    """The start request may have reached the job server, although no usable ack came back.

    :param result: one word for the metrics.
    """

    def __init__(self, reason: str, result: str, health: Health) -> None:
        super().__init__(reason)
        self.result = result
        self.health = health
