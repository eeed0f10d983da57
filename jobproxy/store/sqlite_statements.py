"""What the store does with its tables. Each function is a part of a transaction.

Times are in seconds on the store's clock; ``now`` is the time of the call.
"""

import sqlite3
from collections.abc import Sequence
from itertools import accumulate

from jobproxy.store.interface import Claim, Placement
from jobproxy.store.orphans import Orphan, Position

_CLAIM = """
    INSERT INTO claims VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT (key_digest) DO UPDATE
    SET job_id = ?2, request_digest = ?3, has_ended = ?4, expires = ?5 WHERE expires <= ?6
"""
_RESULT = """
    INSERT INTO jobs VALUES (?1, NULL, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (job_id) DO UPDATE
    SET ack = NULL, result = ?2, upstream_id = ?3, came = ?4, is_orphan = ?5, expires = ?6
    WHERE result IS NULL OR expires <= ?7
"""
_NOTE = """
    INSERT INTO jobs VALUES (?1, ?2, NULL, NULL, NULL, 0, ?3) ON CONFLICT (job_id) DO UPDATE
    SET ack = ?2, result = NULL, is_orphan = 0, expires = ?3
    WHERE result IS NULL OR expires <= ?4
"""
_ORPHANS = """
    SELECT job_id, upstream_id, length(result), came FROM jobs
    WHERE is_orphan AND expires > ? AND (came, job_id) > (?, ?) ORDER BY came, job_id LIMIT ?
"""
_EXPIRED_JOBS = """
    SELECT job_id, ifnull(length(result), 0) + ifnull(length(ack), 0) FROM jobs
    WHERE expires <= ? ORDER BY expires LIMIT ?
"""
_EXPIRED_CLAIMS = """
    DELETE FROM claims WHERE key_digest IN
    (SELECT key_digest FROM claims WHERE expires <= ? LIMIT ?)
"""

#: What is removed in one step at most: rows of each table, and about the bytes of their bodies.
SWEEP_ROWS = 500
SWEEP_SIZE = 4 * 2**20


def put_claim(
    connection: sqlite3.Connection, key_digest: bytes, claim: Claim, now: float, life: float
) -> Claim:
    """Claim a key, unless it has a valid claim; return the valid one."""
    row = (key_digest, claim.job_id, claim.request_digest, claim.has_ended, now + life, now)
    if connection.execute(_CLAIM, row).rowcount:
        return claim
    return find_claim(connection, key_digest, now) or claim


def find_claim(connection: sqlite3.Connection, key_digest: bytes, now: float) -> Claim | None:
    """Return the valid claim of a key, if there is one."""
    row = connection.execute(
        "SELECT job_id, request_digest, has_ended FROM claims WHERE key_digest = ? AND expires > ?",
        (key_digest, now),
    ).fetchone()
    return None if row is None else Claim(row[0], row[1], bool(row[2]))


def release_claim(connection: sqlite3.Connection, key_digest: bytes, job_id: str) -> None:
    """Remove the claim of a job that has not ended."""
    connection.execute(
        "DELETE FROM claims WHERE key_digest = ? AND job_id = ? AND NOT has_ended",
        (key_digest, job_id),
    )


def end_claim(connection: sqlite3.Connection, job_id: str) -> None:
    """Note in the claim of a job, if it has one, that it has ended."""
    connection.execute(
        "UPDATE claims SET has_ended = 1 WHERE job_id = ? AND NOT has_ended", (job_id,)
    )


def put_result(
    connection: sqlite3.Connection,
    job_id: str,
    body: bytes,
    *,
    upstream_id: str | None,
    now: float,
    retain: float,
    is_orphan: bool,
) -> Placement:
    """Store a result, unless there is one: ``TAKEN`` then, or how it differs from that one.

    The claim of the job, which may be one of an earlier process, ends with it.
    """
    end_claim(connection, job_id)
    row = (job_id, body, upstream_id, int(now * 1000), is_orphan, now + retain, now)
    if connection.execute(_RESULT, row).rowcount:
        return Placement.TAKEN
    known = connection.execute("SELECT result FROM jobs WHERE job_id = ?", (job_id,)).fetchone()
    return Placement.DUPLICATE if known[0] == body else Placement.CONFLICT


def put_note(
    connection: sqlite3.Connection, job_id: str, ack: bytes, now: float, life: float
) -> None:
    """Note that a job exists, unless it has a result."""
    connection.execute(_NOTE, (job_id, ack, now + life, now))


def collect_job(
    connection: sqlite3.Connection, job_id: str, now: float
) -> tuple[bytes | None, bytes | None]:
    """Return the result of a job, which is no orphan any more, and its ack if there is none."""
    row = connection.execute(
        "SELECT result, ack, is_orphan FROM jobs WHERE job_id = ? AND expires > ?", (job_id, now)
    ).fetchone()
    if row is None:
        return None, None
    if row[2]:
        claim_orphan(connection, job_id)
    return row[0], row[1]


def claim_orphan(connection: sqlite3.Connection, job_id: str) -> None:
    """Note that a result is no orphan any more."""
    connection.execute("UPDATE jobs SET is_orphan = 0 WHERE job_id = ? AND is_orphan", (job_id,))


def discard_result(connection: sqlite3.Connection, job_id: str) -> None:
    """Remove a result."""
    connection.execute("DELETE FROM jobs WHERE job_id = ? AND result IS NOT NULL", (job_id,))


def list_orphans(
    connection: sqlite3.Connection, limit: int, after: Position, now: float
) -> list[Orphan]:
    """Return the oldest orphans after a position."""
    rows = connection.execute(_ORPHANS, (now, after.came, after.job_id, limit))
    return [
        Orphan(job_id, upstream_id, size, came, max(0.0, now - came / 1000))
        for job_id, upstream_id, size, came in rows
    ]


def count_orphans(connection: sqlite3.Connection, now: float) -> int:
    """Return how many orphans there are."""
    query = "SELECT count(*) FROM jobs WHERE is_orphan AND expires > ?"
    (count,) = connection.execute(query, (now,)).fetchone()
    return int(count)


def find_orphan(connection: sqlite3.Connection, job_id: str, now: float) -> bytes | None:
    """Return the body of an orphan."""
    row = connection.execute(
        "SELECT result FROM jobs WHERE job_id = ? AND is_orphan AND expires > ?", (job_id, now)
    ).fetchone()
    return None if row is None else row[0]


def remove_expired(connection: sqlite3.Connection, now: float) -> bool:
    """Remove some rows whose time is over; return whether there are no more of them."""
    rows = connection.execute(_EXPIRED_JOBS, (now, SWEEP_ROWS)).fetchall()
    sizes = accumulate(size for _, size in rows)
    # The first one may be larger.
    removed = [
        (job_id,) for (job_id, _), size in zip(rows, sizes, strict=True) if size <= SWEEP_SIZE
    ]
    removed = removed or [(job_id,) for job_id, _ in rows[:1]]
    connection.executemany("DELETE FROM jobs WHERE job_id = ?", removed)
    claims = connection.execute(_EXPIRED_CLAIMS, (now, SWEEP_ROWS)).rowcount
    return len(removed) == len(rows) < SWEEP_ROWS and claims < SWEEP_ROWS


def count_running(connection: sqlite3.Connection, now: float) -> int:
    """Return how many jobs have not ended whose callbacks may still come."""
    found = connection.execute(
        "SELECT count(*) FROM (SELECT job_id FROM claims WHERE NOT has_ended AND expires > ?1"
        " UNION SELECT job_id FROM jobs WHERE result IS NULL AND expires > ?1)",
        (now,),
    )
    count: int = found.fetchone()[0]
    return count


def put_claims(
    connection: sqlite3.Connection,
    claims: Sequence[tuple[bytes, Claim]],
    now: float,
    life: float,
) -> None:
    """Put back claims; a key that has one keeps it."""
    for key_digest, claim in claims:
        put_claim(connection, key_digest, claim, now, life)
