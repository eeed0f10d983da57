"""The report of the work sample."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from attrs import define, field, frozen

from jobproxy.sandbox.jobs import Job
from jobproxy.sandbox.load_outcomes import Outcome
from jobproxy.sandbox.load_report import Ending
from jobproxy.sandbox.proofs import pack_proof
from jobproxy.util.terminal import escape


@define(eq=False)
class Collector:
    """Keeps what the report of the work sample shows: each result and its duration."""

    _durations: list[float] = field(factory=list, init=False)
    _jobs: list[Job] = field(factory=list, init=False)
    _errors: Counter[str] = field(factory=Counter, init=False)

    def record(self, outcome: Outcome) -> None:
        """Keep an outcome."""
        error = outcome.error
        if error is not None:
            # With status 200, what is wrong is the result, and the text says all.
            is_refusal = error.status not in (None, 200)
            self._errors[f"status {error.status}: {error.text}" if is_refusal else error.text] += 1
        elif outcome.job is not None:
            self._durations.append(outcome.end - outcome.start)
            self._jobs.append(outcome.job)

    def report(self, ending: Ending) -> "Report":
        """Return the report of what was kept."""
        return Report(self._durations, self._jobs, self._errors, ending)


@frozen
class Report:
    """The outcome of a run.

    :param durations: seconds of each job that succeeded.
    :param jobs: those jobs.
    :param errors: the numbers of jobs that failed, by error.
    """

    durations: Sequence[float]
    jobs: Sequence[Job]
    errors: Counter[str]
    ending: Ending

    @property
    def reasons(self) -> list[str]:
        """Why the run failed; nothing if it passed."""
        failed = self.errors.total()
        return self.ending.reasons(failed, failed + len(self.jobs))

    @property
    def passed(self) -> bool:
        return not self.reasons

    def to_text(self) -> str:
        """Return the report in the work sample's format."""
        reasons = self.reasons
        verdict = "FAILED" if reasons else "PASSED"
        lines = [f"Succeeded: {len(self.jobs)}"]
        lines += [
            f"Failed: {count} ({escape(error)})" for error, count in self.errors.most_common()
        ]
        if self.durations:
            lines.append(f"Average Duration: {fmean(self.durations):.9f} seconds")
        lines += [f"Total Duration: {self.ending.total:.9f} seconds", ""]
        lines.append(f"WORK SAMPLE RESULT: {verdict}")
        if reasons:
            lines += ["", f"FAILED: {'; '.join(reasons)}"]
        else:
            lines += ["", "Proof:", pack_proof(self.jobs)]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Return the report as JSON; durations are in seconds."""
        report = {
            "result": "PASSED" if self.passed else "FAILED",
            "reasons": self.reasons,
            "succeeded": len(self.jobs),
            "failed": self.errors.total(),
            "errors": dict(self.errors),
            "total": self.ending.total,
            "limit": self.ending.limit,
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
