"""What is checked of a store before the process starts."""

import sqlite3
import tempfile
import time
from contextlib import closing
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from jobproxy.app.build_store import UnusableStore, prepare
from jobproxy.app.settings import Settings
from jobproxy.store import sqlite_statements as statements
from jobproxy.store.address import StoreAddress
from jobproxy.store.interface import Claim
from jobproxy.store.sqlite_address import SqliteAddress
from jobproxy.store.sqlite_file import SqliteFile
from tests.support.proxy import DEFAULTS


class KeyTests(SynchronousTestCase):
    """The key beside the store, with which the callback URLs of its jobs were signed."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.address = SqliteAddress(str(Path(folder.name) / "store.db"))
        store = {"store": StoreAddress(sqlite=self.address), "secret_file": ()}
        self.settings = Settings(**{**DEFAULTS, **store})
        self.keys = prepare(self.settings).secret_file

    def write(self, life: float, *, has_ended: bool = False) -> None:
        """Write a job with a claim, and one that was told 202."""
        file = SqliteFile(self.address)
        try:
            with closing(file.open(time.time())) as connection:
                claim = Claim("a", b"digest", has_ended)
                statements.put_claim(connection, b"key", claim, file.time, life)
                statements.put_note(connection, "b", b"{}", file.time, life)
                if has_ended:
                    self.end(connection, file.time)
        finally:
            file.unlock()

    def end(self, connection: sqlite3.Connection, now: float) -> None:
        statements.put_result(
            connection, "b", b"{}", upstream_id=None, now=now, retain=60, is_orphan=False
        )

    def test_key_of_jobs_that_have_not_ended_is_never_made_anew(self) -> None:
        """G12: a new key would refuse their callbacks: one line says what to restore instead."""
        self.write(life=60)
        Path(self.address.key_path).unlink()
        with self.assertRaises(UnusableStore) as caught:
            prepare(self.settings)
        self.assertIn(f"{self.address.key_path} is gone", str(caught.exception))
        self.assertIn("of 2 jobs that have not ended", str(caught.exception))
        self.assertFalse(Path(self.address.key_path).exists())
        # There is another key, and they are given up.
        other = evolve(self.settings, secret_file=(b"k" * 32,))
        self.assertEqual(prepare(other).secret_file, other.secret_file)
        Path(self.address.key_path).write_bytes(b"k" * 32)
        self.assertEqual(prepare(self.settings).secret_file, (b"k" * 32,))

    def test_key_is_made_if_no_job_needs_the_one_before(self) -> None:
        """Jobs that have ended, or whose time is over, expect no callback."""
        self.write(life=0)
        self.write(life=60, has_ended=True)
        Path(self.address.key_path).unlink()
        self.assertNotEqual(prepare(self.settings).secret_file, self.keys)

    def test_key_of_a_store_in_use_is_never_made_anew(self) -> None:
        """G12: the process that has the store still knows the key, and has jobs that need it."""
        Path(self.address.key_path).unlink()
        owner = SqliteFile(self.address)
        owner.open(time.time()).close()
        self.addCleanup(owner.unlock)
        with self.assertRaises(UnusableStore) as caught:
            prepare(self.settings)
        self.assertIn("the callbacks of its jobs that have not ended", str(caught.exception))

    def test_lock_of_another_program_is_waited_for(self) -> None:
        """G13: a backup, or a shell of SQLite, that writes does not end the start for good."""
        with closing(sqlite3.connect(self.address.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            self.assertEqual(prepare(self.settings).secret_file, self.keys)
