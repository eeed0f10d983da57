"""A client's preferences, parsed from the headers of its request."""

import re
from collections.abc import Iterable

from attrs import frozen

from jobproxy.wire.problems import Kind, Problem, ProblemError

#: A string of RFC 8941, section 3.3.3, and the parameters that may follow it (section 3.1.2).
_STRING = r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"'
_PARAMETER = rf"; *[a-z*][a-z0-9_.*-]*(?:=(?:{_STRING.replace('((', '(?:(', 1)}|[!#-+\--:<-~]+))?"
_KEY = re.compile(rf'{_STRING}(?:{_PARAMETER})*|(?!")([\x21-\x7e]+)')
_ESCAPE = re.compile(r"\\(.)")
MAX_KEY = 255
#: One preference of a list; a comma in quotes does not end it.
_PREFERENCE = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*"?)+')
_WAIT = re.compile(r"[0-9]+")
#: W3C Trace Context, section 3.2: version, trace-id, parent-id, flags; the ids are not all zeros.
_TRACE = re.compile(
    rb"(?!ff)([0-9a-f]{2})(-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-)([0-9a-f]{2})((?:-.*)?)"
)
#: Characters of a ``tracestate`` that are passed on, and of a member that may stay if it is longer.
MAX_STATE = 512
_MAX_MEMBER = 128

_KNOWN = frozenset({b"prefer", b"idempotency-key", b"traceparent", b"tracestate"})


@frozen
class Preferences:
    """What a client asks for besides the job.

    :param wait: the most seconds to hold it (``Prefer: wait``); :data:`None`: as long as possible.
    :param is_async: whether to respond before the job ends (``Prefer: respond-async``).
    :param key: the ``Idempotency-Key``.
    :param trace: the headers of W3C Trace Context, to send with the start request.
    """

    wait: int | None = None
    is_async: bool = False
    key: str | None = None
    trace: tuple[tuple[bytes, bytes], ...] = ()


_DEFAULT = Preferences()
#: Values of a preference that say that it is none.
_FALSE = frozenset({"false", "no", "0", "?0"})


def parse_preferences(headers: Iterable[tuple[bytes, bytes]]) -> Preferences:
    """Parse the headers of a request. Unknown preferences are ignored (RFC 7240, section 2).

    :param headers: with lower-case names.
    :raises ProblemError: if an ``Idempotency-Key`` is invalid. To ignore it could start the job
        twice.
    """
    found: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        if name in _KNOWN:
            found.setdefault(name, []).append(value)
    if not found:
        return _DEFAULT
    preferences = _read_preferences(b",".join(found.get(b"prefer", ())).decode("latin-1"))
    wait = preferences.get("wait", "")
    return Preferences(
        wait=int(wait[:9]) if _WAIT.fullmatch(wait) else None,
        is_async=preferences.get("respond-async", "false").lower() not in _FALSE,
        key=_read_key(found.get(b"idempotency-key", [])),
        trace=_read_trace(found),
    )


def _read_preferences(text: str) -> dict[str, str]:
    """Return the value of each preference, the first if it is repeated (RFC 7240, section 2)."""
    preferences: dict[str, str] = {}
    for preference in _PREFERENCE.findall(text):
        name, _, value = preference.partition(";")[0].partition("=")
        preferences.setdefault(name.strip().lower(), value.strip().strip('"'))
    return preferences


def _read_key(values: list[bytes]) -> str | None:
    """Return the key: without quotes as Stripe has it, or with quotes as in the IETF's draft."""
    if not values:
        return None
    match = _KEY.fullmatch(values[0].decode("latin-1").strip())
    key = "" if match is None else match[2] or _ESCAPE.sub(r"\1", match[1])
    if len(values) > 1 or not 1 <= len(key) <= MAX_KEY:
        detail = "Send one Idempotency-Key of 1 to 255 printable ASCII characters."
        raise ProblemError(Problem(Kind.INVALID_REQUEST, detail))
    return key


def _read_trace(found: dict[bytes, list[bytes]]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the trace headers; ``tracestate`` is dropped without one valid ``traceparent``."""
    parents = found.get(b"traceparent", [])
    match = _TRACE.fullmatch(parents[0]) if len(parents) == 1 else None
    if match is None:
        return ()
    parent = match[0]
    if match[1] != b"00":
        # Of a later version we know four fields, and of its flags one (section 4.3).
        parent = b"00%b%02x" % (match[2], int(match[3], 16) & 1)
    elif match[4]:
        return ()
    state = _shorten(b",".join(found.get(b"tracestate", ())))
    return ((b"traceparent", parent), *([(b"tracestate", state)] if state else []))


def _shorten(state: bytes) -> bytes:
    """Remove whole members of a ``tracestate`` that is too long (section 3.3.1.5)."""
    if len(state) <= MAX_STATE:
        return state
    members = [member.strip(b" \t") for member in state.split(b",")]
    kept, size = [], -1
    for member in (each for each in members if each and len(each) <= _MAX_MEMBER):
        size += len(member) + 1
        if size > MAX_STATE:
            break
        kept.append(member)
    return b",".join(kept)
