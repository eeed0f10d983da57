"""How large a store in a file gets, and how long it takes to open it.

    python benchmarks/store_sizes.py --jobs 1000000

First so many jobs with a key pass through, of which a tenth is kept at any time: the file must not
grow with their number. Then a file is filled with as many rows, and opened.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from jobproxy.store import sqlite_statements as statements
from jobproxy.store.interface import Claim
from jobproxy.store.sqlite_address import SqliteAddress
from jobproxy.store.sqlite_file import SqliteFile

#: On the disk of this checkout: many temporary folders are in memory.
BUILD = Path(__file__).parents[1] / "build"
#: Jobs in one transaction.
BATCH = 50
BODY = b'{"id":"4a40f6c1bf585ca9","state":"completed","proof":"%040X"}' % 7


class Store:
    """A file, written as a proxy does; each job takes a second of its time."""

    def __init__(self, path: Path, life: float) -> None:
        self.path, self._life, self._now = path, life, 0.0
        self.database = SqliteFile(SqliteAddress(str(path))).connect(self._now)

    def put(self, jobs: int) -> Iterator[int]:
        """Write so many jobs with keys; yield how many there were after each hundredth."""
        for number in range(0, jobs, BATCH):
            made = [self._make_claim() for _ in range(BATCH)]
            self.database.execute("BEGIN")
            for key_digest, claim in made:
                statements.put_claim(self.database, key_digest, claim, self._now, self._life)
            self.database.execute("COMMIT")
            self.database.execute("BEGIN")
            for _, claim in made:
                self._end(claim)
            self.database.execute("COMMIT")
            self._now += BATCH
            while not statements.remove_expired(self.database, self._now):
                pass
            if number % (jobs // 100) < BATCH:
                yield number

    def _make_claim(self) -> tuple[bytes, Claim]:
        digest = os.urandom(16)
        return digest, Claim(f"AABrBmZlnode-one{digest.hex()[:22]}", digest)

    def _end(self, claim: Claim) -> None:
        statements.put_result(
            self.database,
            claim.job_id,
            BODY,
            upstream_id="4a40f6c1bf585ca9",
            now=self._now,
            retain=self._life,
            is_orphan=False,
        )

    def size(self) -> int:
        return sum(
            path.stat().st_size
            for path in (self.path, self.path.with_name(f"{self.path.name}-wal"))
            if path.exists()
        )


def pass_through(folder: Path, jobs: int) -> bool:
    """Let jobs pass through; return whether the file stopped to grow."""
    store = Store(folder / "passing.db", jobs / 10)
    sizes = {number: store.size() for number in store.put(jobs)}
    numbers = sorted(sizes)
    for number in numbers[::10]:
        print(f"  {number:9} jobs: {sizes[number] / 2**20:8.1f} MiB")
    store.database.close()
    settled = sizes[numbers[len(numbers) // 4]]
    return max(sizes.values()) < 1.3 * settled


def open_large(folder: Path, rows: int) -> float:
    """Fill a file with so many rows; return the seconds to open it from the disk."""
    store = Store(folder / "large.db", 10.0 * rows)
    for _ in store.put(rows // 2):
        pass
    store.database.close()
    with store.path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    begun = time.perf_counter()
    SqliteFile(SqliteAddress(str(store.path))).connect(0.0).close()
    took = time.perf_counter() - begun
    print(f"  {rows} rows, {store.size() / 2**20:.0f} MiB: opened and checked in {took:.2f} s")
    return took


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1_000_000)
    arguments = parser.parse_args()
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        is_bounded = pass_through(Path(name), arguments.jobs)
        open_large(Path(name), arguments.jobs)
    print("the file stopped to grow" if is_bounded else "WRONG: the file grows")
    return 0 if is_bounded else 1


if __name__ == "__main__":
    sys.exit(main())
