"""The timeline of a job: what has become of it, and when."""

from typing import Any

from jobproxy.jobs.record import JobRecord


def describe_timeline(record: JobRecord, now: float, wall: float) -> dict[str, Any]:
    """Return what is known of a job, as a document for the operator.

    :param now: the time on the clock of the record.
    :param wall: Unix time in seconds.
    """
    described: dict[str, Any] = {
        "job": record.job_id,
        "id": record.upstream_id,
        "state": record.state.word,
        "started": record.started,
        "outcome": record.outcome,
        "waiting": len(record.waiters),
        "bytes": None if record.result is None else len(record.result.body),
    }
    names = {"profile": "profile", "request_id": "requestId", "trace_id": "traceId"}
    fields = {**record.log_fields, "profile": record.profile or None}
    described |= {shown: fields[name] for name, shown in names.items() if fields.get(name)}
    if record.origin.account is not None:
        described["account"] = record.origin.account
    described["events"] = [
        {
            "time": round(wall - (now - time), 3),
            "after": round(time - record.created, 3),
            "event": event,
        }
        for time, event in sorted(_list_events(record), key=lambda each: each[0])
    ]
    return described


def _list_events(record: JobRecord) -> list[tuple[float, str]]:
    """Return the events with their times, on the clock of the record."""
    events = [(record.created, "noted: its node is another" if record.is_copy else "queued")]
    if record.sent is not None:
        events.append((record.sent, "start request sent"))
    events += [(time, f"start request failed: {result}") for time, result in record.failed_starts]
    if record.acked is not None:
        events.append((record.acked, "acknowledged"))
    last = record.last_report
    if last is not None and record.acked is not None and last > record.acked:
        events.append((last, "last progress"))
    if record.overdue is not None:
        events.append((record.overdue, "the last client has gone"))
    if record.ended is not None:
        events.append((record.ended, f"ended: {record.outcome}"))
    return events
