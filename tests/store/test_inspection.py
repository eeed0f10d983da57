"""What an operator sees of the file of a store."""

import base64
from contextlib import closing

from jobproxy.store import sqlite_statements as statements
from jobproxy.store.inspection import export, inspect
from jobproxy.store.interface import Claim
from jobproxy.store.sqlite_errors import BadStore
from jobproxy.store.sqlite_file import MIGRATIONS
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
        """What is only in the write-ahead log is read too."""
        self.fill()
        copy = self.path.with_name("copy.db")
        for suffix in ("", "-wal"):
            source = self.path.with_name(f"store.db{suffix}")
            copy.with_name(f"copy.db{suffix}").write_bytes(source.read_bytes())
        self.assertEqual(inspect(str(copy))["results"], 2)
        with closing(self.file.connect(NOW)) as connection:
            self.assertTrue(connection)
