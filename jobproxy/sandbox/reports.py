"""The report of a run of jobclient."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from attrs import frozen

from jobproxy.sandbox.jobs import Job
from jobproxy.sandbox.proofs import pack_proof
from jobproxy.util.terminal import escape


@frozen
class Report:
    """The outcome of a run.

    :param durations: seconds of each job that succeeded.
    :param jobs: those jobs.
    :param errors: the numbers of jobs that failed, by error.
    :param total: seconds from the first request to the last response.
    :param limit: the maximum of ``total`` for a run that passes.
    """

    durations: Sequence[float]
    jobs: Sequence[Job]
    errors: Counter[str]
    total: float
    limit: float

    @property
    def passed(self) -> bool:
        return not self.errors and self.total <= self.limit

    def to_text(self) -> str:
        """Return the report in the work sample's format."""
        verdict = "PASSED" if self.passed else "FAILED"
        lines = [f"Succeeded: {len(self.jobs)}"]
        lines += [
            f"Failed: {count} ({escape(error)})" for error, count in self.errors.most_common()
        ]
        if self.durations:
            lines.append(f"Average Duration: {fmean(self.durations):.9f} seconds")
        lines += [f"Total Duration: {self.total:.9f} seconds", ""]
        lines.append(f"WORK SAMPLE RESULT: {verdict}")
        if self.passed:
            lines += ["", "Proof:", pack_proof(self.jobs)]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the report as JSON; durations are in seconds."""
        report = {
            "result": "PASSED" if self.passed else "FAILED",
            "succeeded": len(self.jobs),
            "failed": self.errors.total(),
            "errors": dict(self.errors),
            "total": self.total,
            "limit": self.limit,
            "average": fmean(self.durations) if self.durations else None,
            **{f"p{percent}": _percentile(self.durations, percent) for percent in (50, 95, 99)},
            "max": max(self.durations, default=None),
            "proof": pack_proof(self.jobs),
        }
        return json.dumps(report, indent=2)


def _percentile(durations: Sequence[float], percent: int) -> float | None:
    """Return a percentile of the durations, by the nearest rank."""
    if not durations:
        return None
    return sorted(durations)[math.ceil(len(durations) * percent / 100) - 1]
