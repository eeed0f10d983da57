"""The orphans in the memory of this node."""

from jobproxy.jobs.table import CorrelationTable
from jobproxy.store.orphans import Orphan, Position, choose_orphans, make_orphan


def list_own_orphans(
    table: CorrelationTable, limit: int, after: Position, now: float
) -> list[Orphan]:
    """Return the oldest orphans after a position.

    :param now: in seconds on the clock of the table.
    """
    orphans = (
        make_orphan(record.job_id, record.upstream_id, record.result.body, record.ended, now)
        for record in table.retention.orphans
        if record.result is not None and record.ended is not None
    )
    return choose_orphans(orphans, limit, after)
