"""What is in the file of a store, for an operator; a process may use it meanwhile."""

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from jobproxy.store.sqlite_clock import read_lag
from jobproxy.store.sqlite_file import ask, check
from jobproxy.store.sqlite_view import View

_COUNTS = {
    "claims": "SELECT count(*) FROM claims",
    "running": "SELECT count(*) FROM jobs WHERE result IS NULL",
    "results": "SELECT count(*) FROM jobs WHERE result IS NOT NULL",
    "orphans": "SELECT count(*) FROM jobs WHERE is_orphan",
}
#: The columns of a table that are exported; the last one is about the size of the row.
_CLAIMS = "key_digest, job_id, request_digest, has_ended, expires, 0"
_JOBS = (
    "job_id, ack, result, upstream_id, came, is_orphan, expires, "
    "ifnull(length(result), 0) + ifnull(length(ack), 0)"
)

#: What an export reads at once at most: rows, and about the bytes of their bodies.
PAGE_ROWS = 500
PAGE_SIZE = 4 * 2**20


def inspect(path: str) -> dict[str, Any]:
    """Check all pages and indexes of a file, and count what is in it.

    :raises BadStore: if it is not the file of a store, or is damaged; the message follows its name.
    """
    with closing(View(path)) as view:
        return view.read(lambda connection: _inspect(connection, path))


def _inspect(connection: sqlite3.Connection, path: str) -> dict[str, Any]:
    check(connection, is_thorough=True)
    return {
        "format": ask(connection, "PRAGMA user_version"),
        "bytes": Path(path).stat().st_size,
        **{name: ask(connection, question) for name, question in _COUNTS.items()},
    }


def export(path: str) -> Iterator[dict[str, Any]]:
    """Return all that is in a file: first the claims, then the jobs. Times are in Unix seconds, as
    far as the process that uses the file, or did so last, knew them.

    It is not one moment's: a job may have changed after its claim was read.

    :raises BadStore: as :func:`inspect`.
    """
    with closing(View(path)) as view:
        lag = view.read(read_lag)
        for row in _read_rows(view, "claims", _CLAIMS):
            yield _write_claim(row, lag)
        for row in _read_rows(view, "jobs", _JOBS):
            yield _write_job(row, lag)


def _read_rows(view: View, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Return all rows that a table has now, in pages, so that no log has to wait for the caller.

    A row that is changed or removed until its page is read is exported like that, or not at all.
    """
    newest = f"SELECT max(rowid) FROM {table}"  # noqa: S608 - a constant
    last = view.read(lambda connection: ask(connection, newest))
    # Not by an index: if one is damaged, the rows can still be saved.
    page = (
        f"SELECT rowid, {columns} FROM {table} NOT INDEXED "  # noqa: S608 - constants
        "WHERE rowid > ? AND rowid <= ? ORDER BY rowid"
    )
    at = 0
    while last is not None and at < last:
        read = partial(_read_page, page=page, bounds=(at, last))
        rows = view.read(read)
        if not rows:
            return
        at = rows[-1][0]
        for row in rows:
            yield row[1:-1]


def _read_page(
    connection: sqlite3.Connection, page: str, bounds: tuple[int, int]
) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    size = 0
    with closing(connection.execute(page, bounds)) as found:
        for row in found:
            rows.append(row)
            size += row[-1]
            if len(rows) >= PAGE_ROWS or size >= PAGE_SIZE:
                break
    return rows


def _write_claim(row: tuple[Any, ...], lag: float) -> dict[str, Any]:
    key_digest, job_id, request_digest, has_ended, expires = row
    return {
        "kind": "claim",
        "keyDigest": key_digest.hex(),
        "job": job_id,
        "requestDigest": request_digest.hex(),
        "ended": bool(has_ended),
        "expires": expires + lag,
    }


def _write_job(row: tuple[Any, ...], lag: float) -> dict[str, Any]:
    job_id, ack, result, upstream_id, came, is_orphan, expires = row
    return {
        "kind": "job",
        "job": job_id,
        "id": upstream_id,
        **_write_body("ack", ack),
        **_write_body("result", result),
        "came": None if came is None else came / 1000 + lag,
        "orphan": bool(is_orphan),
        "expires": expires + lag,
    }


def _write_body(name: str, body: bytes | None) -> dict[str, str]:
    """Return a body as text, or as Base64 if it is none."""
    if body is None:
        return {}
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(body).decode()}
