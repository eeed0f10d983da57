"""Findings: what is wrong with the proxy now, one rule for each kind of trouble."""

from collections.abc import Callable, Iterator

from attrs import frozen

from jobproxy.monitoring.counts import MINUTE, Counts, Past
from jobproxy.monitoring.reasons import FAILURES, Reason, State
from jobproxy.monitoring.words import RUNNING

#: A kind of failure counts if it is that of so many jobs, and of more than this share of all.
MINFAILURES, SHARE = 2, 0.05
#: Seconds without a callback after which that is worth a word, if jobs time out too; and if not.
SILENT, LONG_SILENT = 60.0, 900.0
#: Acks without a callback that count as silence, if no client waits.
UNHEARD = 20
#: Refused callbacks in a minute without any good one, as those of another key are.
MIN_REFUSED = 5
#: The share of time in which the reactor is late, and the seconds over which that can be told.
LATE_SHARE, LATE_TIME = 0.2, 30.0


@frozen
class Finding:
    """A reason that holds.

    :param text: says it with numbers.
    :param since: Unix time at which it was first found.
    :param seen: when it was last found, in seconds on the monotonic clock.
    :param until: Unix time since which it is not found any more; :data:`None`: it is.
    """

    reason: Reason
    state: State
    text: str
    since: float
    seen: float
    until: float | None = None


def find(counts: Counts, past: Past) -> Iterator[Finding]:
    """Yield all that is wrong now."""
    for rule in _RULES:
        for reason, state, text in rule(counts, past):
            yield Finding(reason, state, text, counts.unix, counts.time)


_Found = Iterator[tuple[Reason, State, str]]


def _find_refusal(counts: Counts, _: Past) -> _Found:
    """Find why no new job is accepted."""
    texts = {
        Reason.DRAINING: f"no new job is accepted, clients held: {counts.held:,}",
        Reason.FILES: "there are no free file descriptors",
        Reason.STORE: "the store was not reachable yet",
    }
    yield from (
        (reason, State.DOWN, text)
        for reason, text in texts.items()
        if reason.slug in counts.reasons
    )


def _find_store(counts: Counts, past: Past) -> _Found:
    if Reason.STORE.slug in counts.reasons:
        return
    if counts.has_store and not counts.is_store_up:
        yield Reason.STORE, State.DEGRADED, "the store cannot be reached"
        return
    yield from _find_share(counts, past, Reason.STORE)


def _find_job_server(counts: Counts, past: Past) -> _Found:
    names = ", ".join(counts.broken)
    if len(counts.broken) == counts.servers:
        text = "the job server does not respond, and each job is refused until it does"
        yield Reason.JOB_SERVER, State.DOWN, text
    elif counts.broken:
        yield Reason.JOB_SERVER, State.DEGRADED, f"the job server of {names} does not respond"
    else:
        yield from _find_share(counts, past, Reason.JOB_SERVER)


def _find_full(counts: Counts, past: Past) -> _Found:
    if counts.max_held and counts.held >= counts.max_held:
        yield Reason.FULL, State.DEGRADED, f"{counts.held:,} clients are held, and no more may be"
    else:
        yield from _find_share(counts, past, Reason.FULL)


def _find_callbacks(counts: Counts, past: Past) -> _Found:
    """Find why results do not come."""
    if not counts.expects_callbacks:
        return
    minute = next(past.before(counts))
    refused = counts.refused_callbacks - minute.refused_callbacks
    acks = counts.acks - past.heard.acks
    has_timeouts = any(_find_share(counts, past, Reason.TIMEOUTS))
    # Without timeouts it may be a scan, or what is left of the time before a restart.
    is_long = counts.time - minute.time >= MINUTE and acks >= MIN_REFUSED
    is_deaf = counts.heard == minute.heard and (has_timeouts or is_long)
    if refused >= MIN_REFUSED and is_deaf:
        text = f"{refused:,} callbacks were refused in the last minute, and none was accepted"
        yield Reason.CALLBACKS_REFUSED, State.DEGRADED, text
    # Under load many jobs are acknowledged before the first can end.
    if counts.is_unheard and (has_timeouts or counts.oldest >= SILENT):
        text = f"{counts.acks:,} jobs were acknowledged, and no callback has ever come"
        yield Reason.UNHEARD, State.DEGRADED, text
        return
    silent = counts.time - past.heard.time
    is_long = silent >= LONG_SILENT <= counts.oldest and acks >= UNHEARD
    if is_long or (has_timeouts and acks and silent >= SILENT):
        yield Reason.SILENCE, State.DEGRADED, f"no callback for {_show_span(silent)}"


def _find_late(counts: Counts, past: Past) -> _Found:
    minute = next(past.before(counts))
    seconds = counts.time - minute.time
    late = counts.lag - minute.lag
    if seconds >= LATE_TIME and late / seconds > LATE_SHARE:
        text = f"the event loop was late for {late / seconds:.0%} of the last minute"
        yield Reason.LATE, State.DEGRADED, text


_FAILED = frozenset().union(*(slugs for slugs, _ in FAILURES.values()))


def _find_share(counts: Counts, past: Past, reason: Reason) -> _Found:
    """Find whether jobs failed in one way: in the last minute, or in a longer time if few come.

    What the client is the reason for, and an account that sends too much, are no failures.
    """
    slugs, text = FAILURES[reason]
    good = {"ok"} if reason is Reason.TIMEOUTS else {"ok", RUNNING}
    for then in past.before(counts):
        failed = _count(counts, then, slugs)
        if not failed:
            return
        all_jobs = _count(counts, then, _FAILED | good)
        if all_jobs >= MINFAILURES:
            if failed >= MINFAILURES and failed / all_jobs > SHARE:
                span = _show_last(counts.time - then.time)
                yield reason, State.DEGRADED, f"{failed:,} of {all_jobs:,} jobs {text} {span}"
            return


def _find_shares(counts: Counts, past: Past) -> _Found:
    for reason in (Reason.CONFIGURATION, Reason.BUSY, Reason.TIMEOUTS, Reason.BUGS):
        yield from _find_share(counts, past, reason)


_RULES: tuple[Callable[[Counts, Past], _Found], ...] = (
    _find_refusal,
    _find_store,
    _find_job_server,
    _find_callbacks,
    _find_full,
    _find_shares,
    _find_late,
)


def _count(counts: Counts, then: Counts, slugs: frozenset[str] | set[str]) -> int:
    """Return how many responses had one of these outcomes since then."""
    return sum(counts.outcomes.get(slug, 0) - then.outcomes.get(slug, 0) for slug in slugs)


def _show_last(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return "in the last minute" if minutes == 1 else f"in the last {minutes} minutes"


def _show_span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return "a minute" if minutes <= 1 else f"{minutes} minutes"
