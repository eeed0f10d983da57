"""What an operator sees of the file of a store."""

import base64
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest import mock

from jobproxy.store import sqlite_statements as statements
from jobproxy.store.inspection import PAGE_ROWS, PAGE_SIZE, export, inspect
from jobproxy.store.interface import Claim
from jobproxy.store.sqlite_address import SqliteAddress
from jobproxy.store.sqlite_errors import BadStore
from jobproxy.store.sqlite_file import MIGRATIONS, SqliteFile, ask
from jobproxy.store.sqlite_view import View
from tests.store.test_sqlite_file import NOW, FileTestCase

CLAIM = Claim("job-1", b"\x01digest")


class InspectionTests(FileTestCase):
    """A file in use."""

    def fill(self) -> None:
        """Write a claim, a job that runs, a result and an orphan; keep the file open."""
        connection = self.connect()
        statements.put_claim(connection, b"\x00key", CLAIM, NOW, 100)
        statements.put_note(connection, "job-1", b"ack", NOW, 100)
        for name, body, is_orphan in (("job-2", b"\xff", False), ("job-3", b"{}", True)):
            statements.put_result(
                connection,
                name,
                body,
                upstream_id="7",
                now=NOW,
                retain=60,
                is_orphan=is_orphan,
            )

    def test_sound_file_is_counted_while_it_is_in_use(self) -> None:
        """All that is in a file is counted."""
        self.fill()
        found = inspect(str(self.path))
        self.assertGreater(found.pop("bytes"), 0)
        self.assertEqual(
            found,
            {"format": len(MIGRATIONS), "claims": 1, "running": 1, "results": 2, "orphans": 1},
        )

    def test_everything_in_a_file_is_exported(self) -> None:
        """Each claim and each job is exported; bodies as text, or as Base64 if they are none."""
        self.fill()
        claim, running, result, orphan = export(str(self.path))
        self.assertEqual(
            claim,
            {
                "kind": "claim",
                "keyDigest": b"\x00key".hex(),
                "job": "job-1",
                "requestDigest": CLAIM.request_digest.hex(),
                "ended": False,
                "expires": NOW + 100,
            },
        )
        self.assertEqual(
            (running["job"], running["ack"], running["orphan"]), ("job-1", "ack", False)
        )
        self.assertNotIn("result", running)
        self.assertEqual(base64.b64decode(result["resultBase64"]), b"\xff")
        self.assertEqual((result["id"], result["came"], result["expires"]), ("7", NOW, NOW + 60))
        self.assertEqual((orphan["result"], orphan["orphan"]), ("{}", True))

    def test_index_that_does_not_fit_its_table_is_found(self) -> None:
        """A key that its index does not find would be free: the check looks at indexes too."""
        self.fill()
        connection = self.connect()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        data = self.path.read_bytes()
        # The key is in the table and in its index; this changes the one in the index.
        at = data.rindex(b"\x00key")
        other = data.index(b"\x00key")
        for place in {at, other}:
            changed = data[:place] + b"\x00kez" + data[place + 4 :]
            self.path.write_bytes(changed)
            with self.assertRaises(BadStore) as caught:
                inspect(str(self.path))
            self.assertIn("is damaged", str(caught.exception))

    def test_anything_else_is_refused(self) -> None:
        """A damaged, a missing, and an empty file are refused, and no file is made."""
        for data in (b"my thesis\n" * 100, b""):
            self.path.write_bytes(data)
            for look in (inspect, lambda path: list(export(path))):
                with self.assertRaises(BadStore):
                    look(str(self.path))
        missing = self.path.with_name("missing?.db")
        with self.assertRaises(BadStore):
            inspect(str(missing))
        self.assertFalse(missing.exists())

    def test_file_whose_process_was_killed_can_be_read(self) -> None:
        """What is only in the write-ahead log is read too, and nothing is changed by that."""
        self.fill()
        for suffixes in (("", "-wal", "-shm"), ("", "-wal")):
            copy = self.copy("killed.db", suffixes)
            self.assertEqual(self.look(copy)["results"], 2)
            with closing(SqliteFile(SqliteAddress(str(copy))).connect(NOW)) as connection:
                self.assertTrue(connection)

    def test_file_in_order_is_read_and_not_changed(self) -> None:
        """A file without a log is read as it is, whether its header asks for a log or not."""
        self.fill()
        connection = self.connect()
        backup = self.path.with_name("backup.db")
        connection.execute("VACUUM INTO ?", (str(backup),))
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for suffixes in (("",), ("", "-wal"), ("", "-wal", "-shm")):
            self.assertEqual(self.look(self.copy("stopped.db", suffixes))["results"], 2)
        self.assertEqual(self.look(backup)["results"], 2)

    def test_export_that_nobody_reads_does_not_hold_the_log(self) -> None:
        """No transaction is open between two rows, so that the log can be emptied."""
        self.fill()
        connection = self.connect()
        for number in range(2 * PAGE_ROWS):
            statements.put_note(connection, f"note-{number}", b"", NOW, 100)
        rows = export(str(self.path))
        exported = [next(rows)["job"], next(rows)["job"]]
        connection.execute("DELETE FROM jobs WHERE job_id = 'note-1'")
        statements.put_note(connection, "late", b"", NOW, 100)
        busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        self.assertEqual(busy, 0)
        exported += [row["job"] for row in rows]
        # What is added meanwhile is not waited for: it might never end.
        self.assertEqual(len(exported), len(set(exported)) + 1)
        self.assertEqual(len(exported), 4 + 2 * PAGE_ROWS)
        self.assertNotIn("late", exported)

    def test_page_of_an_export_has_a_bound(self) -> None:
        """Large results come in several pages, and none is left out."""
        connection = self.connect()
        for number in range(5):
            body = b"x" * (PAGE_SIZE // 2 + 1)
            statements.put_result(
                connection,
                f"{number}",
                body,
                upstream_id=None,
                now=NOW,
                retain=60,
                is_orphan=False,
            )
        with mock.patch.object(View, "read", autospec=True, side_effect=View.read) as read:
            self.assertEqual([row["job"] for row in export(str(self.path))], list("01234"))
        self.assertGreaterEqual(read.call_count, 3)

    def test_whatever_has_the_name_is_refused_without_waiting(self) -> None:
        """A pipe, a device or a folder is not opened; a name that is no text is one like others."""
        pipe = self.path.with_name("pipe")
        os.mkfifo(pipe)
        for path in (pipe, Path("/dev/null")):
            with self.assertRaises(BadStore) as caught:
                inspect(str(path))
            self.assertEqual(str(caught.exception), "is not a regular file")
        self.fill()
        odd = self.copy("odd \udcff?#%41.db", ("", "-wal", "-shm"))
        self.assertEqual(inspect(str(odd))["results"], 2)

    def test_log_without_a_row_in_it_is_no_hindrance(self) -> None:
        """A log that was cut short, or is of a time before, has nothing to add to the file."""
        self.fill()
        connection = self.connect()
        log = self.path.with_name("store.db-wal").read_bytes()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        for rest in (log[:1], log[:32], log[:100], log[:4_096], bytes(9_000), b"x" * 9_000):
            for suffixes in (("", "-shm"), ("",)):
                copy = self.copy("cut.db", suffixes)
                copy.with_name("cut.db-wal").write_bytes(rest)
                self.assertEqual(self.look(copy)["results"], 2)

    def test_databases_of_others_are_refused_and_not_changed(self) -> None:
        """Nothing is written to a database of another program, or made beside it."""
        other = self.path.with_name("theirs.db")
        for application in (0, 7):
            with closing(sqlite3.connect(other, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(f"PRAGMA application_id = {application}")
                connection.execute("CREATE TABLE IF NOT EXISTS cookies (x)")
                self.path = other
                copies = [
                    self.copy("killed.db", ("", "-wal", "-shm")),
                    self.copy("moved.db", ("", "-wal")),
                ]
            for path in (other, *copies):
                with self.assertRaises(BadStore) as caught:
                    self.look(path)
                self.assertIn("is a database of another program", str(caught.exception))

    def test_file_that_is_changed_while_it_is_read_is_read_again(self) -> None:
        """What a process writes that has begun meanwhile is not mixed with what was before."""
        self.fill()
        connection = self.connect()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        copy = self.copy("stopped.db", ("",))
        view = View(str(copy))
        self.addCleanup(view.close)
        reads: list[int] = []

        def count(database: sqlite3.Connection) -> int:
            reads.append(ask(database, "SELECT count(*) FROM jobs"))
            if len(reads) == 1:
                later = SqliteFile(SqliteAddress(str(copy))).connect(NOW)
                self.addCleanup(later.close)
                statements.put_note(later, "job-4", b"ack", NOW, 100)
            return reads[-1]

        self.assertEqual(view.read(count), 4)
        self.assertEqual(reads, [3, 4])

    def copy(self, name: str, suffixes: Sequence[str]) -> Path:
        """Copy the file and some of those beside it, as a kill or a stop leaves them."""
        for suffix in ("", "-wal", "-shm"):
            target = self.path.with_name(f"{name}{suffix}")
            target.unlink(missing_ok=True)
            if suffix in suffixes:
                target.write_bytes(self.path.with_name(f"{self.path.name}{suffix}").read_bytes())
        return self.path.with_name(name)

    def look(self, path: Path) -> dict[str, Any]:
        """Inspect and export a file; check that no byte in its folder has changed."""
        before = snapshot(path.parent)
        try:
            found = inspect(str(path))
            self.assertEqual(len(list(export(str(path)))), found["claims"] + 3)
        finally:
            self.assertEqual(snapshot(path.parent), before)
        return found


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return when each file in a folder was written, and what is in it."""
    return {
        path.name: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.iterdir()
        if path.is_file()
    }
