"""The report of a load, for people and for programs."""

import json
from typing import Any

from attrs import frozen

from jobproxy.sandbox.latencies import Latencies
from jobproxy.sandbox.load_tally import Tally
from jobproxy.util.tables import make_table

PERCENTS = (50, 90, 99, 99.9)
#: Lines and columns of the histogram.
BARS, WIDTH = 10, 50


@frozen
class Ending:
    """How a run ended.

    :param total: seconds from the first request to the last response.
    :param limit: the maximum of ``total`` for a run that passes; None: any.
    :param unfinished: jobs that were sent, but had no response yet when the run was interrupted;
        None: it was not.
    """

    total: float
    limit: float | None = None
    unfinished: int | None = None

    def reasons(self, failed: int, count: int) -> list[str]:
        """Return why the run failed; nothing if it passed."""
        reasons = []
        if self.unfinished is not None:
            reasons.append(f"interrupted, {self.unfinished} jobs had no response yet")
        if failed:
            reasons.append(f"{failed} of {count} jobs failed")
        if self.limit is not None and self.total > self.limit:
            reasons.append(f"took {_name_excess(self.total, self.limit)} s, limit {self.limit:g} s")
        return reasons


def _name_excess(total: float, limit: float) -> str:
    """Return a time with as many digits as show that it is above the limit."""
    return next(
        (text for digits in (1, 3, 6) if float(text := f"{total:.{digits}f}") > limit), str(total)
    )


@frozen
class LoadReport:
    """The outcome of a load.

    :param rate: the jobs per second that were asked for, if any.
    """

    tally: Tally
    ending: Ending
    rate: float | None = None

    @property
    def reasons(self) -> list[str]:
        """Why the load failed; nothing if it passed."""
        return self.ending.reasons(self.tally.failed.count, self.tally.count)

    @property
    def passed(self) -> bool:
        return not self.reasons

    @property
    def per_second(self) -> float:
        """Jobs that ended, per second."""
        return self.tally.count / self.ending.total if self.ending.total else 0.0

    def to_text(self) -> str:
        """Return the report for people."""
        tally = self.tally
        wanted = "" if self.rate is None else f" of {self.rate:g}"
        lines = [
            f"Succeeded: {tally.succeeded.count}",
            f"Failed: {tally.failed.count}",
            f"Total: {self.ending.total:.3f} s",
            f"Rate: {self.per_second:.1f}{wanted} jobs/s",
        ]
        if tally.statuses:
            statuses = sorted(tally.statuses.items())
            lines.append("Statuses: " + ", ".join(f"{status}: {n}" for status, n in statuses))
        if self.rate is not None:
            lines += ["", f"Sent late: {_line(tally.delays)}"]
        if tally.failed.count:
            lines += ["", f"Failed after: {_line(tally.failed)}"]
        if tally.succeeded.count:
            lines += ["", *_describe(tally.succeeded)]
        if tally.errors:
            lines += [
                "",
                make_table(("count", "status", "type", "error", "requestId"), self._rows()),
            ]
        verdict = f"FAILED: {'; '.join(self.reasons)}" if self.reasons else "PASSED"
        return "\n".join([*(line.rstrip("\n") for line in lines), "", verdict])

    def to_json(self) -> str:
        """Return the report for programs; times are in seconds."""
        tally = self.tally
        report = {
            "result": "PASSED" if self.passed else "FAILED",
            "reasons": self.reasons,
            "succeeded": tally.succeeded.count,
            "failed": tally.failed.count,
            "unfinished": self.ending.unfinished or 0,
            "total": self.ending.total,
            "limit": self.ending.limit,
            "rate": self.per_second,
            "intendedRate": self.rate,
            "latency": _numbers(tally.succeeded),
            "failedLatency": _numbers(tally.failed),
            "sentLate": _numbers(tally.delays),
            "histogram": [{"to": end, "count": count} for end, count in tally.succeeded.bars(BARS)],
            "statuses": {str(status): n for status, n in sorted(tally.statuses.items())},
            "errors": self._rows(),
        }
        return json.dumps(report, indent=2)

    def _rows(self) -> list[dict[str, Any]]:
        """Return the errors, the most frequent first."""
        found = sorted(self.tally.errors.items(), key=lambda item: -item[1].count)
        return [
            {
                "count": known.count,
                "status": error.status,
                "type": error.kind or None,
                "error": error.text,
                "requestId": known.request_id or None,
            }
            for error, known in found
        ]


def format_time(seconds: float | None) -> str:
    """Return a time with three or four digits."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.4g} ms" if seconds < 0.9995 else f"{seconds:.2f} s"


def _line(latencies: Latencies) -> str:
    p50, p99 = latencies.percentiles(50, 99)
    return f"p50 {format_time(p50)}, p99 {format_time(p99)}, max {format_time(latencies.maximum)}"


def _numbers(latencies: Latencies) -> dict[str, float | None]:
    names = (f"p{percent:g}" for percent in PERCENTS)
    return {
        "min": latencies.minimum if latencies.count else None,
        "mean": latencies.mean,
        **dict(zip(names, latencies.percentiles(*PERCENTS), strict=True)),
        "max": latencies.maximum if latencies.count else None,
    }


def _describe(latencies: Latencies) -> list[str]:
    """Return the latencies as lines of numbers and of a histogram."""
    lines = ["Latency of the jobs that succeeded:"]
    lines += [f"  {name:<6} {format_time(time):>10}" for name, time in _numbers(latencies).items()]
    bars = latencies.bars(BARS)
    most = max(count for _, count in bars)
    lines.append("")
    for end, count in bars:
        bar = "=" * -(-count * WIDTH // most)
        lines.append(f"  to {format_time(end):>9}  {count:>8}  {bar}".rstrip())
    return lines
