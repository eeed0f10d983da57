"""What is in the file of a store, for an operator; a process may use it meanwhile."""

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jobproxy.store.sqlite_clock import read_lag
from jobproxy.store.sqlite_errors import BadStore, explain
from jobproxy.store.sqlite_file import ask, check, check_format

_COUNTS = {
    "claims": "SELECT count(*) FROM claims",
    "running": "SELECT count(*) FROM jobs WHERE result IS NULL",
    "results": "SELECT count(*) FROM jobs WHERE result IS NOT NULL",
    "orphans": "SELECT count(*) FROM jobs WHERE is_orphan",
}


def inspect(path: str) -> dict[str, Any]:
    """Check all pages and indexes of a file, and count what is in it.

    :raises BadStore: if it is not the file of a store, or is damaged; the message follows its name.
    """
    with _open(path) as connection:
        check(connection, is_thorough=True)
        return {
            "format": ask(connection, "PRAGMA user_version"),
            "bytes": Path(path).stat().st_size,
            **{name: ask(connection, question) for name, question in _COUNTS.items()},
        }


def export(path: str) -> Iterator[dict[str, Any]]:
    """Return all that is in a file: first the claims, then the jobs. Times are in Unix seconds, as
    far as the process that uses the file, or did so last, knew them.

    :raises BadStore: as :func:`inspect`.
    """
    with _open(path) as connection:
        lag = read_lag(connection)
        claims = "SELECT key_digest, job_id, request_digest, has_ended, expires FROM claims"
        for key_digest, job_id, request_digest, has_ended, expires in connection.execute(claims):
            yield {
                "kind": "claim",
                "keyDigest": key_digest.hex(),
                "job": job_id,
                "requestDigest": request_digest.hex(),
                "ended": bool(has_ended),
                "expires": expires + lag,
            }
        jobs = "SELECT job_id, ack, result, upstream_id, came, is_orphan, expires FROM jobs"
        for job_id, ack, result, upstream_id, came, is_orphan, expires in connection.execute(jobs):
            yield {
                "kind": "job",
                "job": job_id,
                "id": upstream_id,
                **_write_body("ack", ack),
                **_write_body("result", result),
                "came": None if came is None else came / 1000 + lag,
                "orphan": bool(is_orphan),
                "expires": expires + lag,
            }


@contextmanager
def _open(path: str) -> Iterator[sqlite3.Connection]:
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise BadStore(f"cannot be opened: {error.strerror}") from None
    try:
        # Not read-only: that cannot read a file whose last process was killed.
        opening = sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, isolation_level=None)
        with closing(opening) as connection:
            connection.execute("BEGIN")
            if not check_format(connection):
                raise BadStore("is empty; it is not the file of a store")
            yield connection
    except sqlite3.Error as error:
        raise BadStore(explain(error)) from None


def _write_body(name: str, body: bytes | None) -> dict[str, str]:
    """Return a body as text, or as Base64 if it is none."""
    if body is None:
        return {}
    try:
        return {name: body.decode()}
    except UnicodeDecodeError:
        return {f"{name}Base64": base64.b64encode(body).decode()}
