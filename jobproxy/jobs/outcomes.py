"""Problems about a job: the responses that its clients get instead of a result."""

from attrs import evolve

from jobproxy.jobs.record import JobRecord
from jobproxy.wire.problems import Kind, Problem


def about(record: JobRecord, problem: Problem) -> Problem:
    """Return a problem that names the job."""
    return evolve(problem, job_id=record.job_id, upstream_id=record.upstream_id)


def time_is_up(record: JobRecord) -> Problem:
    """Return what a client gets that has waited until its deadline."""
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
            "The job was not started in time: others of its account came first, or the job "
            "server was busy."
        )
    else:
        kind, retry_after = Kind.WAIT_OVER, None
        detail = "The job was started, but its callback did not come in time."
    return about(record, Problem(kind, detail, started=started, retry_after=retry_after))


def for_one_of_many(record: JobRecord, problem: Problem) -> Problem:
    """Return what one client gets while others go on waiting.

    A job that was not started yet will be started for the others, so this client must not be told
    that it was not.
    """
    if record.is_wanted and problem.started == "no":
        return evolve(problem, started="unknown")
    return problem


def stopped(record: JobRecord) -> Problem:
    """Return what a client gets that is still held when the proxy stops."""
    detail = "The proxy was stopped while the job was waited for."
    return about(record, Problem(Kind.DRAINING, detail, started=record.started, retry_after=1))


def key_reused() -> Problem:
    """Return what a client gets whose key belongs to another request."""
    detail = "Another job was sent with this key; send this one with a key of its own."
    return Problem(Kind.IDEMPOTENCY_KEY_REUSED, detail)


def not_started_by_owner() -> Problem:
    """Return what a client gets whose job another node owns, and did not start."""
    detail = "The node that has the job did not start it."
    return Problem(Kind.UPSTREAM_UNREACHABLE, detail, retry_after=1)


def draining() -> Problem:
    """Return what the client of a job gets that is not started because the proxy stops."""
    return Problem(
        Kind.DRAINING, "The proxy is about to stop, and starts no more jobs.", retry_after=1
    )
