"""The JSON documents that jobproxy itself writes: problems (RFC 9457) and states of jobs."""

import json
from typing import Any

from jobproxy.jobs.record import JobRecord
from jobproxy.wire.problems import MAX_QUOTE, Problem


def job_path(job_id: str) -> str:
    """Return the path at which clients can ask for a job."""
    return f"/jobs/{job_id}"


def describe_problem(problem: Problem, request_id: str) -> bytes:
    """Return the problem document (RFC 9457) of a problem.

    :param request_id: of the request that it responds to.
    :return: the document, ``application/problem+json`` in UTF-8.
    """
    document: dict[str, Any] = {
        "type": f"urn:jobproxy:problem:{problem.slug}",
        "title": problem.kind.title,
        "status": problem.status,
        "detail": problem.detail,
        "started": problem.started,
        "requestId": request_id,
    }
    if problem.job_id is not None:
        document["job"] = problem.job_id
        document["instance"] = job_path(problem.job_id)
    if problem.upstream_id is not None:
        document["id"] = problem.upstream_id
    if problem.errors:
        document["errors"] = [
            {"pointer": error.pointer, "detail": error.detail} for error in problem.errors
        ]
    if problem.upstream_status is not None:
        document["upstreamStatus"] = problem.upstream_status
    if problem.upstream_body:
        document["upstreamBody"] = problem.upstream_body[:MAX_QUOTE].decode("utf-8", "replace")
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


def describe_state(record: JobRecord) -> bytes:
    """Return the document with a job's state."""
    known = {"state": record.state.word}
    if record.upstream_id is not None:
        known["id"] = record.upstream_id
    return json.dumps(known).encode()


def describe_times(record: JobRecord) -> bytes:
    """Return the duration of each phase of a job in milliseconds, for ``Server-Timing``."""
    parts = ""
    begin = record.created
    for name, end in (("queue", record.sent), ("start", record.acked), ("job", record.ended)):
        if end is not None:
            parts += f", {name};dur={(end - begin) * 1000:.3f}"
            begin = end
    return parts[2:].encode()
