"""The states of a verdict, and the reasons for it."""

from collections.abc import Mapping
from enum import Enum

from jobproxy.wire.problems import Kind


class State(Enum):
    """How well the proxy works, from good to bad."""

    #: Whoever sends a job gets its result, or an error for which this proxy is not the reason.
    OK = "ok"
    #: Some clients do not get what they should.
    DEGRADED = "degraded"
    #: No job that comes now can succeed.
    DOWN = "down"

    @property
    def rank(self) -> int:
        return list(State).index(self)


class Reason(Enum):
    """What can be wrong, with the section of the runbook; causes come before what they cause.

    :ivar slug: its name in JSON and in metrics.
    :ivar section: of the runbook.
    """

    DRAINING = ("draining", "JobproxyNoJobs")
    FILES = ("no-file-descriptors", "JobproxyFilesShort")
    STORE = ("store-unreachable", "JobproxyStoreDown")
    JOB_SERVER = ("job-server-unreachable", "JobproxyCircuitOpen")
    CONFIGURATION = ("misconfigured", "JobproxyMisconfigured")
    CALLBACKS_REFUSED = ("callbacks-refused", "JobproxyForgedCallbacks")
    UNHEARD = ("no-callback-yet", "JobproxyUnheard")
    SILENCE = ("no-callbacks", "JobproxyUnanswered")
    FULL = ("full", "JobproxyNearlyFull")
    BUSY = ("job-server-busy", "JobproxyRefusing")
    TIMEOUTS = ("timeouts", "JobproxyTimeouts")
    BUGS = ("bugs", "JobproxyBugs")
    LATE = ("loop-late", "JobproxyLoopLate")

    def __init__(self, slug: str, section: str) -> None:
        self.slug = slug
        self.section = section


#: By reason: what clients got that counts as each kind of failure, and how that is said.
FAILURES: Mapping[Reason, tuple[frozenset[str], str]] = {
    reason: (frozenset(kind.slug for kind in kinds), text)
    for reason, kinds, text in (
        (Reason.STORE, {Kind.STORE_UNREACHABLE}, "were refused for want of the store"),
        (Reason.JOB_SERVER, {Kind.UPSTREAM_UNREACHABLE}, "did not reach the job server"),
        (
            Reason.CONFIGURATION,
            {Kind.UPSTREAM_AUTH, Kind.UPSTREAM_REDIRECT, Kind.UPSTREAM_UNTRUSTED},
            "could not be started as this proxy is configured",
        ),
        (Reason.FULL, {Kind.OVERLOADED}, "were refused for lack of room"),
        (Reason.BUSY, {Kind.UPSTREAM_BUSY}, "were refused by the job server, which is busy"),
        (Reason.TIMEOUTS, {Kind.WAIT_OVER, Kind.START_UNKNOWN}, "timed out"),
        (Reason.BUGS, {Kind.INTERNAL}, "met a bug of the proxy"),
    )
}
