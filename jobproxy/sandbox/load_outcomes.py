"""What became of each job of a load, and which responses are a success."""

import json
from collections.abc import Callable

from attrs import frozen

from jobproxy.sandbox.jobs import Job

#: Characters of what a response says that are kept.
MAX_TEXT = 100


@frozen
class JobError:
    """Why a job failed; equal ones are counted together.

    :param status: of the response; None: there was none.
    :param kind: the ``type`` of a problem (RFC 9457); empty if the response is none.
    :param text: the title of a problem, the beginning of any other body, or what happened instead.
    """

    status: int | None
    kind: str
    text: str


@frozen
class Outcome:
    """What became of one job. Times are in seconds on the clock of the load.

    :param number: of the job, from 1.
    :param start: when the job should have been sent.
    :param sent: when it was sent.
    :param end: when its response was there, or when it failed.
    :param status: of its response, if there was one.
    :param request_id: the ``X-Request-Id`` of the response, or nothing.
    :param job: its result, if the load asks for results.
    """

    number: int
    account: str
    start: float
    sent: float
    end: float
    status: int | None = None
    request_id: str = ""
    error: JobError | None = None
    job: Job | None = None


class JobFailed(Exception):
    """A job did not succeed.

    :ivar error: why.
    """

    def __init__(self, status: int | None, kind: str, text: str) -> None:
        super().__init__(text)
        self.error = JobError(status, kind, text)


#: Returns the result in a response with this status and body, if it has to have one.
#: Raises JobFailed if the job did not succeed.
Judge = Callable[[int, bytes], Job | None]


def accept_any_success(status: int, body: bytes) -> None:
    """Accept each response with a status of 2xx.

    :raises JobFailed: for another status.
    """
    if not 200 <= status < 300:
        raise JobFailed(status, *_name_refusal(body))


def read_result(status: int, body: bytes) -> Job:
    """Return the result of a job that completed, in the job server's own format.

    :raises JobFailed: for any other response.
    """
    if status != 200:
        raise JobFailed(status, *_name_refusal(body))
    try:
        result = json.loads(body)
        job = Job(result["id"], result["startedAt"], result["proof"])
        state = result["state"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise JobFailed(status, "", "response is not a result") from error
    if not all(isinstance(part, str) for part in (job.job_id, job.started_at, job.proof)):
        raise JobFailed(status, "", "response is not a result")
    if state != "completed":
        raise JobFailed(status, "", f"job ended with state {state}"[:MAX_TEXT])
    return job


def _name_refusal(body: bytes) -> tuple[str, str]:
    """Return the type and title of a problem, or the first characters of any other body."""
    try:
        problem = json.loads(body)
        kind, text = problem.get("type", ""), str(problem["title"])
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        kind, text = "", body[: 8 * MAX_TEXT].decode("utf-8", "replace")
    return _shorten(kind) if isinstance(kind, str) else "", _shorten(text)


def _shorten(text: str) -> str:
    return " ".join(text.split())[:MAX_TEXT]


def name_failure(error: BaseException) -> str:
    """Return the name of the exception that Twisted has wrapped."""
    reasons = getattr(error, "reasons", None)
    return name_failure(reasons[0].value) if reasons else type(error).__name__
