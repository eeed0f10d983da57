"""``jobproxyctl store``, as an operator calls it."""

import json
from contextlib import closing
from pathlib import Path

from jobproxy.store import sqlite_statements as statements
from jobproxy.store.sqlite_address import SqliteAddress
from jobproxy.store.sqlite_file import SqliteFile
from tests.support.processes import run


def test_store_is_checked_and_exported(tmp_path: Path) -> None:
    """Both commands read a file; ``check`` ends with an error if it is damaged."""
    path = tmp_path / "store.db"
    with closing(SqliteFile(SqliteAddress(str(path))).connect(0.0)) as connection:
        statements.put_note(connection, "job-1", b"ack", 0.0, 5.0)
    checked = run("jobproxyctl", "store", "check", str(path))
    assert checked.stdout.startswith("sound, "), checked.stderr
    assert checked.stdout.endswith(" bytes: 0 claims, 1 running, 0 results, 0 orphans\n")
    counted = run("jobproxyctl", "store", "check", "--json", str(path))
    assert json.loads(counted.stdout)["running"] == 1
    exported = run("jobproxyctl", "store", "export", f"sqlite:{path}?max-size=1M")
    assert [json.loads(line)["job"] for line in exported.stdout.splitlines()] == ["job-1"]
    path.write_bytes(b"my thesis\n" * 100)
    refused = run("jobproxyctl", "store", "check", str(path))
    assert refused.returncode == 1
    assert refused.stderr == (f"jobproxyctl: {path} is not a database of SQLite, or is damaged\n")
    for missing, reason in (("none.db", "No such file or directory"), ("", "Is a directory")):
        refused = run("jobproxyctl", "store", "check", str(tmp_path / missing))
        line = f"jobproxyctl: {tmp_path / missing} cannot be opened: {reason}\n"
        assert (refused.returncode, refused.stderr) == (1, line)
