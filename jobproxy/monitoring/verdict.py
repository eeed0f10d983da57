"""The verdict: whether the proxy works, since when, what is wrong and what to do, in one sentence.

Page, readiness, ``jobproxyctl status`` and the alerts all show this one. It is computed from what
the process counts, and changes to worse at once, but to better only after a quiet minute.
"""

from time import gmtime, strftime
from typing import Any

from attrs import evolve, frozen

from jobproxy.monitoring.counts import Counts, Past
from jobproxy.monitoring.findings import Finding, find
from jobproxy.monitoring.reasons import Reason, State

#: Seconds for which a reason stays after it was last found.
QUIET = 60.0


@frozen
class Verdict:
    """The verdict at one moment.

    :param since: Unix time at which the state began.
    :param note: what can be said if nothing is wrong.
    """

    state: State
    since: float
    findings: tuple[Finding, ...] = ()
    note: str = ""

    @property
    def word(self) -> str:
        """The state, or that the process is draining, which is no trouble."""
        is_draining = any(each.reason is Reason.DRAINING for each in self.findings)
        return Reason.DRAINING.slug if is_draining else self.state.value

    @property
    def section(self) -> str | None:
        """The section of the runbook that says what to do about the worst, or its cause."""
        return self.findings[0].reason.section if self.findings else None

    @property
    def text(self) -> str:
        """The verdict in a sentence."""
        start = f"{self.word.capitalize()} since {show_time(self.since)}"
        if not self.findings:
            return f"{start}: {self.note}."
        # What clients see comes first, and then why.
        ordered = sorted(
            self.findings,
            key=lambda each: (-each.state.rank, each.reason is not Reason.TIMEOUTS),
        )
        said = "; ".join(map(_say, ordered))
        return f"{start}: {said}. What to do: {self.section}"

    def describe(self) -> dict[str, Any]:
        """Return the verdict as a document."""
        found = [
            {
                "reason": each.reason.slug,
                "state": each.state.value,
                "text": each.text,
                "since": round(each.since, 3),
                "until": None if each.until is None else round(each.until, 3),
                "runbook": each.reason.section,
            }
            for each in self.findings
        ]
        return {
            "state": self.state.value,
            "word": self.word,
            "since": round(self.since, 3),
            "text": self.text,
            "runbook": self.section,
            "findings": found,
        }


def judge(counts: Counts, past: Past, before: Verdict) -> Verdict:
    """Return the verdict.

    :param counts: those of now.
    :param past: those of the last minutes.
    :param before: the last verdict, whose reasons stay for a quiet minute.
    """
    found = {each.reason: each for each in find(counts, past)}
    known = {each.reason: each for each in before.findings}
    for reason, old in known.items():
        if reason in found:
            found[reason] = evolve(found[reason], since=old.since)
        elif counts.time - old.seen < QUIET and not _is_of_the_start(old):
            until = counts.unix if old.until is None else old.until
            found[reason] = evolve(old, until=until)
    # The worst is first, and of those a cause before what it causes.
    ordered = [found[reason] for reason in Reason if reason in found]
    findings = tuple(sorted(ordered, key=lambda each: -each.state.rank))
    state = findings[0].state if findings else State.OK
    since = before.since if state is before.state else counts.unix
    return Verdict(state, since, findings, _describe_calm(counts, past))


def _is_of_the_start(finding: Finding) -> bool:
    """Whether a reason only says that the process has just begun, which does not come again."""
    return finding.reason is Reason.STORE and finding.state is State.DOWN


def show_time(unix: float) -> str:
    """Return a time of day in UTC, as the log has it."""
    return strftime("%H:%M UTC", gmtime(unix))


def _describe_calm(counts: Counts, past: Past) -> str:
    ended = counts.ended - next(past.before(counts)).ended
    return f"{ended:,} jobs ended in the last minute" if ended else "no jobs in the last minute"


def _say(finding: Finding) -> str:
    if finding.until is None:
        return finding.text
    return f"{finding.text} (not any more since {show_time(finding.until)})"
