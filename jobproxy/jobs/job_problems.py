"""Problems about a job: the responses that its clients get instead of a result."""

from typing import cast

from attrs import evolve
from twisted.python.failure import Failure

from jobproxy.jobs.record import JobRecord
from jobproxy.wire.problems import Kind, Problem, ProblemError, Started


def about(record: JobRecord, problem: Problem) -> Problem:
    """Return the problem with the ids of the job."""
    return evolve(problem, job_id=record.job_id, upstream_id=record.upstream_id)


def time_is_up(record: JobRecord) -> Problem:
    """Return the problem of a client whose deadline has passed."""
    started = record.started
    if started == "unknown":
        kind, retry_after = Kind.START_UNKNOWN, None
        detail = (
            "The job server did not confirm the start, and no callback came; "
            "the job may run or may have run."
        )
    elif started == "no":
        kind, retry_after = Kind.WAIT_OVER, 1
        detail = (
            "The job was not started in time: other jobs of its account were first, or the job "
            "server was busy."
        )
    else:
        kind, retry_after = Kind.WAIT_OVER, None
        detail = "The job was started, but its callback did not come in time."
    return about(record, Problem(kind, detail, started=started, retry_after=retry_after))


def for_one_of_many(record: JobRecord, problem: Problem) -> Problem:
    """Return the problem of one client while other clients still wait for the job.

    The job will still be started for the others, so this client must not get ``started: no``.
    """
    if record.is_wanted and problem.started == "no":
        return evolve(problem, started="unknown")
    return problem


def mark_own_wait(failure: Failure) -> Failure:
    """Mark the problem of a client that is held no longer than it has asked for."""
    if failure.check(ProblemError):
        problem = cast(ProblemError, failure.value).problem
        if problem.kind in (Kind.WAIT_OVER, Kind.START_UNKNOWN):
            raise ProblemError(evolve(problem, is_own_wait=True))
    return failure


def stopped(record: JobRecord) -> Problem:
    """Return the problem of a client that is still held when the proxy stops."""
    detail = "The proxy was stopped before the job ended."
    return about(record, Problem(Kind.DRAINING, detail, started=record.started, retry_after=1))


def keeps_nothing() -> ProblemError:
    """Return the refusal of a callback after the table's end: what it would keep is lost."""
    detail = "The proxy is about to stop, and keeps nothing any more; send the callback again."
    return ProblemError(evolve(draining(), detail=detail, started="unknown"))


def key_reused() -> Problem:
    """Return the problem of a request whose key belongs to another request."""
    detail = "Another job was sent with this key; send this one with a key of its own."
    return Problem(Kind.IDEMPOTENCY_KEY_REUSED, detail)


def result_gone(job_id: str, started: Started) -> Problem:
    """Return the problem of a key whose job was started, and whose result cannot be had.

    :param started: "yes", or "unknown" if nobody knows more than that it may have been.
    """
    detail = (
        "A job was started with this key, and its result is no longer kept; the key starts no "
        "other job."
    )
    if started == "unknown":
        detail = (
            "A job may have been started with this key, and nothing more is known of it; the key "
            "starts no other job."
        )
    return Problem(Kind.RESULT_GONE, detail, started=started, job_id=job_id)


def not_started_by_owner() -> Problem:
    """Return the problem of a job that its owner, another node, did not start."""
    detail = "The node that owns the job did not start it."
    return Problem(Kind.UPSTREAM_UNREACHABLE, detail, retry_after=1)


def lost_by_owner() -> Problem:
    """Return the problem of a job of another node that this node does not know any more."""
    detail = "Another node may have started the job; nothing more is known of it."
    return Problem(Kind.START_UNKNOWN, detail, started="unknown")


def draining() -> Problem:
    """Return the problem of a job that is not started because the proxy stops."""
    return Problem(
        Kind.DRAINING, "The proxy is about to stop, and starts no more jobs.", retry_after=1
    )
