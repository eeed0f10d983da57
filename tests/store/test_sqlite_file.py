"""The file of a store: its lock, its format, its damage, and its key."""

import fcntl
import os
import sqlite3
import stat
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from jobproxy.store.key_file import read_or_make_keys
from jobproxy.store.sqlite_address import MAX_SIZE, SqliteAddress, read_sqlite_address
from jobproxy.store.sqlite_errors import BadStore
from jobproxy.store.sqlite_file import MIGRATIONS, SqliteFile, ask

NOW = 1_435_592_056.0


class FileTestCase(SynchronousTestCase):
    """A folder for a file."""

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "store.db"
        self.file = SqliteFile(SqliteAddress(str(self.path)))
        self.addCleanup(self.file.unlock)

    def connect(self, file: SqliteFile | None = None) -> sqlite3.Connection:
        """Open the file until the end of the test."""
        connection = (file or self.file).connect(NOW)
        self.addCleanup(connection.close)
        return connection

    def check_refused(self, words: str, file: SqliteFile | None = None) -> None:
        """Check that the file cannot be used, and why."""
        with self.assertRaises(BadStore) as caught:
            self.connect(file)
        self.assertIn(words, str(caught.exception))
        # It is one line of the log, and of standard error.
        self.assertNotIn("\n", str(caught.exception))


class LinkTests(FileTestCase):
    """A file that has two names."""

    def test_file_has_one_owner_and_one_key_by_whatever_name(self) -> None:
        """G13: a link to the file leads to the same lock, and to the same key of tokens."""
        link = self.path.with_name("link.db")
        link.symlink_to(self.path)
        other = SqliteFile(SqliteAddress(str(link)))
        self.assertTrue(self.file.lock())
        self.assertFalse(other.lock())
        self.assertEqual(other.address.key_path, self.file.address.key_path)

    def test_file_with_a_second_hard_link_is_refused(self) -> None:
        """G13: a second name that cannot be told from the first would have a lock of its own."""
        self.connect().close()
        link = self.path.with_name("link.db")
        link.hardlink_to(self.path)
        for path in (self.path, link):
            file = SqliteFile(SqliteAddress(str(path)))
            self.check_refused("has 2 names (hard links): remove the other one", file)
        link.unlink()
        self.connect()


class FormatTests(FileTestCase):
    """Which files are opened."""

    def test_new_file_is_for_its_owner_alone_and_survives_a_power_cut(self) -> None:
        """A new file has mode 600, a write-ahead log, and is written through to the disk."""
        connection = self.connect()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        self.assertEqual(ask(connection, "PRAGMA journal_mode"), "wal")
        self.assertEqual(ask(connection, "PRAGMA synchronous"), 2)
        self.assertEqual(ask(connection, "PRAGMA user_version"), len(MIGRATIONS))

    def test_query_sets_how_the_file_is_written(self) -> None:
        """``synchronous`` and ``max-size`` of the address count."""
        address = read_sqlite_address(f"{self.path}?synchronous=normal&max-size=8M")
        connection = self.connect(SqliteFile(address))
        self.assertEqual(ask(connection, "PRAGMA synchronous"), 1)
        size = ask(connection, "PRAGMA max_page_count") * ask(connection, "PRAGMA page_size")
        self.assertEqual(size, 8 * 2**20)

    def test_file_of_the_version_before_is_migrated(self) -> None:
        """A file of an earlier version gets what the later ones have, and keeps its rows."""
        first = self.connect()
        first.execute("INSERT INTO claims VALUES (x'00', 'job', x'01', 0, 5)")
        first.close()
        later = (*MIGRATIONS, ("ALTER TABLE claims ADD COLUMN more TEXT",))
        connection = self.connect(SqliteFile(self.file.address, later))
        self.assertEqual(ask(connection, "PRAGMA user_version"), len(MIGRATIONS) + 1)
        self.assertEqual(ask(connection, "SELECT job_id FROM claims WHERE more IS NULL"), "job")

    def test_migration_that_fails_changes_nothing(self) -> None:
        """A migration is done as a whole or not at all."""
        self.connect().close()
        wrong = (*MIGRATIONS, ("CREATE TABLE more (x)", "CREATE TABLE more (x)"))
        self.check_refused("cannot be used", SqliteFile(self.file.address, wrong))
        connection = self.connect()
        self.assertEqual(ask(connection, "PRAGMA user_version"), len(MIGRATIONS))

    def test_file_of_a_newer_version_is_refused(self) -> None:
        """G12: a file that a newer version has written is not touched."""
        later = (*MIGRATIONS, ("CREATE TABLE more (x)",))
        self.connect(SqliteFile(self.file.address, later)).close()
        self.check_refused("was written by a newer version of jobproxy: its format is 4")

    def test_database_of_another_program_is_refused(self) -> None:
        """G12: a database that this program has not made is not touched."""
        other = sqlite3.connect(self.path)
        other.execute("CREATE TABLE cookies (x)")
        other.close()
        self.check_refused("is a database of another program")

    def test_file_that_is_no_database_is_refused(self) -> None:
        """G12: any other file is refused, whatever is in it."""
        self.path.write_bytes(b"my thesis\n" * 100)
        self.check_refused("is not a database of SQLite, or is damaged")

    def test_damaged_page_is_found_when_the_file_is_opened(self) -> None:
        """G12: one page of garbage is found at the start."""
        connection = self.connect()
        for number in range(500):
            row = (b"%d" % number, f"job-{number}", b"d" * 16)
            connection.execute("INSERT INTO claims VALUES (?, ?, ?, 0, 5)", row)
        connection.close()
        data = bytearray(self.path.read_bytes())
        data[-3 * 4096 : -2 * 4096] = b"\xa5" * 4096
        self.path.write_bytes(bytes(data))
        self.check_refused("is damaged")

    def test_folder_that_is_missing_is_named(self) -> None:
        """G12: the folder is not made: a wrong path would else be found much later."""
        file = SqliteFile(SqliteAddress(str(self.path.parent / "no" / "store.db")))
        for use in (file.lock, lambda: file.connect(NOW)):
            with self.assertRaises(BadStore) as caught:
                use()
            self.assertIn(f"there is no folder '{self.path.parent}/no'", str(caught.exception))

    def test_full_file_is_refused_at_the_start(self) -> None:
        """G12: a file that has reached its max-size cannot be written."""
        connection = self.connect()
        for number in range(300):
            row = (f"job-{number}", b"r" * 4096)
            connection.execute("INSERT INTO jobs VALUES (?, NULL, ?, NULL, 1, 0, 5)", row)
        connection.execute("DELETE FROM meta")
        connection.close()
        small = SqliteFile(read_sqlite_address(f"{self.path}?max-size=1M"))
        # SQLite does not shrink a file, but what it has free is used first.
        connection = small.connect(NOW)
        with self.assertRaises(sqlite3.OperationalError):
            for number in range(3):
                row = (f"more-{number}", b"r" * 4096)
                connection.execute("INSERT INTO jobs VALUES (?, NULL, ?, NULL, 1, 0, 5)", row)
        connection.close()


class LockTests(FileTestCase):
    """One process uses the file at a time."""

    def test_second_process_cannot_lock_the_file(self) -> None:
        """G13: the lock is for one, and says which process has it."""
        other = SqliteFile(self.file.address)
        self.assertTrue(self.file.lock())
        self.assertTrue(self.file.lock())
        self.assertFalse(other.lock())
        self.assertEqual(other.read_owner(), str(os.getpid()))
        self.file.unlock()
        self.assertTrue(other.lock())
        other.unlock()

    def test_lock_that_was_removed_before_it_was_taken_is_none(self) -> None:
        """G13: a process that opened the lock's file just before its removal locks the new one."""
        path, flock = Path(self.file.address.lock_path), fcntl.flock
        calls: list[int] = []

        def lock(number: int, operation: int) -> None:
            calls.append(number)
            if len(calls) == 1:
                path.unlink()
            flock(number, operation)

        with mock.patch("fcntl.flock", lock):
            self.assertTrue(self.file.lock())
        self.assertFalse(SqliteFile(self.file.address).lock())


class KeyFileTests(FileTestCase):
    """The key of callback tokens beside the file."""

    def test_key_is_made_once_for_its_owner_alone(self) -> None:
        """The key is random, of mode 600, and the same the next time."""
        path = self.file.address.key_path
        keys = read_or_make_keys(path, os.urandom)
        self.assertEqual(stat.S_IMODE(Path(path).stat().st_mode), 0o600)
        self.assertEqual(read_or_make_keys(path, lambda _: self.fail("made again")), keys)
        self.assertEqual(list(self.path.parent.iterdir()), [Path(path)])

    def test_key_is_made_although_a_process_was_killed_while_it_made_one(self) -> None:
        """In a container each process has the same number: a draft that was left is not used."""
        path = self.file.address.key_path
        Path(f"{path}.{os.getpid()}").touch()
        self.assertEqual(len(read_or_make_keys(path, os.urandom)), 1)

    def test_bad_key_file_is_refused(self) -> None:
        """G12: a key that is too short, or cannot be read or made, is refused."""
        path = Path(self.file.address.key_path)
        path.write_bytes(b"short\n")
        with self.assertRaises(ValueError) as caught:
            read_or_make_keys(str(path), os.urandom)
        self.assertIn("one or two lines of at least 32 bytes", str(caught.exception))
        path.unlink()
        path.mkdir()
        with self.assertRaises(ValueError) as caught:
            read_or_make_keys(str(path), os.urandom)
        self.assertIn("cannot be read", str(caught.exception))


class AddressTests(SynchronousTestCase):
    """Reading the address."""

    def test_each_part_is_read(self) -> None:
        """The path, how it is written, and how large it may get."""
        for text, address in {
            "store.db": SqliteAddress("store.db", "full", MAX_SIZE),
            "/a/b c.db?synchronous=normal": SqliteAddress("/a/b c.db", "normal", MAX_SIZE),
            "/a?max-size=512M&synchronous=full": SqliteAddress("/a", "full", 512 * 2**20),
            "/a?max-size=2000000": SqliteAddress("/a", "full", 2_000_000),
        }.items():
            self.assertEqual(read_sqlite_address(text), address, text)

    def test_any_other_address_is_refused(self) -> None:
        """G12: what is wrong is said."""
        for text, words in {
            "": "must be sqlite:PATH",
            "//host/path": "must be sqlite:PATH",
            "/folder/": "must be sqlite:PATH",
            "/a?": "must be sqlite:PATH",
            "/a?synchronous=off": "not 'off'",
            "/a?max-size=1K": "at least 1M",
            "/a?max-size=-5G": "at least 1M",
            "/a?cache=1": "unknown part 'cache'",
        }.items():
            with self.assertRaises(ValueError, msg=text) as caught:
                read_sqlite_address(text)
            self.assertIn(words, str(caught.exception))
