"""Statuses with which a job server refuses a start request, and the problem of each."""

from collections.abc import Iterable, Mapping

from jobproxy.wire.problems import Kind

#: Statuses that mean "not now".
BUSY = frozenset({429, 503})
#: Statuses that mean "never": those of errors of the client. 408 and 425 do not say whether the
#: request was read.
REJECTED = frozenset(range(400, 500)) - {401, 403, 408, 425, 429}


def choose_refusals(
    busy: Iterable[int] = BUSY, rejected: Iterable[int] = REJECTED
) -> Mapping[int, Kind]:
    """Return the problem of each refusal, by its status.

    A refusal counts even if its body does not arrive.

    :param busy: the statuses that mean "not now".
    :param rejected: those that mean "never".
    """
    return {
        # The other redirects can mean that the job was started: see RFC 9110, section 15.4.4,
        # for 303.
        **dict.fromkeys((307, 308), Kind.UPSTREAM_REDIRECT),
        **dict.fromkeys((401, 403), Kind.UPSTREAM_AUTH),
        **dict.fromkeys(rejected, Kind.UPSTREAM_REJECTED),
        **dict.fromkeys(busy, Kind.UPSTREAM_BUSY),
    }


#: Of a job server that has no profile.
REFUSALS = choose_refusals()
