"""What a load prints while it runs: a line of CSV for each job, and the live line of a terminal."""

import csv
import io
import queue
import threading
from collections.abc import Callable
from typing import TextIO

from attrs import define, field

from jobproxy.sandbox.load import LoadLoop
from jobproxy.sandbox.load_outcomes import Outcome
from jobproxy.sandbox.load_report import format_time
from jobproxy.sandbox.load_tally import Tally
from jobproxy.util.terminal import escape

COLUMNS = (
    "number",
    "account",
    "start",
    "sent",
    "latency",
    "status",
    "type",
    "error",
    "request_id",
)
#: Characters that are handed to the thread at once, and how many times so many may wait for it.
_CHUNK, _CHUNKS = 32_768, 64
#: Seconds for the rest, when a load ends.
_CLOSE_TIME = 5.0


class CsvWriter:
    """Writes CSV in a thread of its own, so that a slow disk is not measured as a slow response.

    If the thread falls far behind, :meth:`record` waits for it: memory stays bounded.

    :param begun: when the load began, on its clock; times in the file are relative to it.
    :param on_error: is called in the thread if the file cannot be written.
    :ivar error: why it cannot.
    """

    def __init__(self, file: TextIO, begun: float, on_error: Callable[[], object]) -> None:
        self._file = file
        self._begun = begun
        self._on_error = on_error
        self.error: OSError | None = None
        self._text = io.StringIO()
        self._rows = csv.writer(self._text, lineterminator="\n")
        self._rows.writerow(COLUMNS)
        self._chunks: queue.Queue[str | None] = queue.Queue(_CHUNKS)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def record(self, outcome: Outcome) -> None:
        """Write the line of a job, soon."""
        error = outcome.error
        self._rows.writerow(
            (
                outcome.number,
                escape(outcome.account),
                f"{outcome.start - self._begun:.6f}",
                f"{outcome.sent - self._begun:.6f}",
                f"{outcome.end - outcome.start:.6f}",
                "" if outcome.status is None else outcome.status,
                "" if error is None else escape(error.kind),
                "" if error is None else escape(error.text),
                escape(outcome.request_id),
            )
        )
        if self._text.tell() >= _CHUNK:
            self.flush()

    def flush(self) -> None:
        """Hand all lines to the thread."""
        if self._text.tell():
            self._chunks.put(self._text.getvalue())
            self._text.seek(0)
            self._text.truncate()

    def close(self) -> None:
        """Write the rest."""
        self.flush()
        self._chunks.put(None)
        self._thread.join(_CLOSE_TIME)

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            if self.error is not None:
                # Nobody may wait for room in the queue.
                continue
            try:
                self._file.write(chunk)
                self._file.flush()
            except OSError as error:
                self.error = error
                self._on_error()


@define(eq=False)
class LiveLine:
    """Rewrites one line of a terminal.

    :param columns: returns the width of the terminal.
    """

    _write: Callable[[str], object]
    _columns: Callable[[], int]
    _tally: Tally
    _loop: LoadLoop
    _begun: float
    _shown_at: float = field(init=False)
    _shown_count: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._shown_at = self._begun

    def show(self, now: float) -> None:
        """Show the state of the load; the rate is that since the last time."""
        tally, seconds = self._tally, now - self._shown_at
        rate = (tally.count - self._shown_count) / seconds if seconds > 0 else 0.0
        self._shown_at, self._shown_count = now, tally.count
        p50, p90, p99 = tally.succeeded.percentiles(50, 90, 99)
        line = (
            f"{now - self._begun:.0f} s  {rate:.0f} jobs/s  {tally.succeeded.count} succeeded  "
            f"{tally.failed.count} failed  {self._loop.active} held  p50 {format_time(p50)}  "
            f"p90 {format_time(p90)}  p99 {format_time(p99)}"
        )
        self._write(f"\r{line[: self._columns() - 1]}\x1b[K")

    def clear(self) -> None:
        """Leave nothing of the line."""
        self._write("\r\x1b[K")
