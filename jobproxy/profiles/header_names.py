"""Which headers of each message a profile reads; the others are not kept."""

from jobproxy.profiles.expressions import Expression, Source
from jobproxy.profiles.parts import find_parts
from jobproxy.profiles.profile import HeaderNames, Profile
from jobproxy.profiles.signatures import Scheme, Verifier

#: Those of any message with a body.
_BODY = frozenset({b"content-type", b"content-encoding"})
_STANDARD = frozenset({b"webhook-id", b"webhook-timestamp", b"webhook-signature"})


def find_header_names(profile: Profile) -> HeaderNames:
    """Return the headers that a profile needs of each message."""
    found: dict[Source, set[bytes]] = {source: set(_BODY) for source in Source}
    for expression in find_parts(profile, Expression):
        if expression.part == "header":
            found[expression.source].add(expression.name.lower().encode())
    found[Source.REQUEST] |= {name.encode() for name in profile.start.forward}
    if profile.verifier is not None:
        found[Source.MESSAGE] |= _names_of(profile.verifier)
    return HeaderNames(
        frozenset(found[Source.REQUEST]),
        frozenset(found[Source.RESPONSE]),
        # What a poll brings can be a message, too.
        frozenset(found[Source.MESSAGE]),
    )


def _names_of(verifier: Verifier) -> frozenset[bytes]:
    if verifier.scheme is Scheme.STANDARD_WEBHOOKS:
        return _STANDARD
    return frozenset({verifier.header.lower().encode()})
