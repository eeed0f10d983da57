"""Commands whose output is cut off, as by ``head``."""

import os
import signal
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from jobproxy.sandbox.processes import find_script
from jobproxy.store import sqlite_statements as statements
from jobproxy.store.sqlite_address import SqliteAddress
from jobproxy.store.sqlite_file import SqliteFile


def run_closed(*command: str) -> "subprocess.CompletedProcess[str]":
    """Run a command with an output that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [find_script(command[0]), *command[1:]],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            env={name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"},
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize("program", ["jobclient", "jobproxyctl", "jobproxy-demo"])
def test_help_that_nobody_reads_ends_silently(program: str) -> None:
    """What is still buffered when the command ends is lost without a word."""
    ended = run_closed(program, "--help")
    assert (ended.stderr, ended.returncode) == ("", 128 + signal.SIGPIPE)


def test_export_that_nobody_reads_ends_silently(tmp_path: Path) -> None:
    """``jobproxyctl store export PATH | head -1`` ends as other tools do."""
    path = tmp_path / "store.db"
    with closing(SqliteFile(SqliteAddress(str(path))).connect(0.0)) as connection:
        statements.put_note(connection, "job-1", b"ack", 0.0, 5.0)
    ended = run_closed("jobproxyctl", "store", "export", str(path))
    assert (ended.stderr, ended.returncode) == ("", 128 + signal.SIGPIPE)
