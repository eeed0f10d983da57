"""The phases of a server's connection, as one table.

A connection reads requests and responds to them in order. A client may send its next request
before the response to the last one (RFC 9112, section 9.3.2), so that both can happen at the same
time. While a client does not read its responses, nothing is read from it.

There is one phase, rather than a state for reading, one for responding and a flag for each
exception; and each phase has one timeout:

==========  =====================================================================  ===============
phase       what it means                                                          timeout
==========  =====================================================================  ===============
SILENT      nothing was received yet                                               silent_time
IDLE        between requests                                                       idle_time
READING     a request has begun to arrive, and none is without a response          request_time
RESPONDING  a request has no response yet: its client is held                      none
AHEAD       the same, and the next request has begun to arrive                     request_time
STALLED     a request's response was begun, and its client does not read           idle_time
BLOCKED     a response is complete, and its client does not read                   idle_time
LINGERING   an error has been sent, and what is received is dropped                linger_time
CLOSING     the last response has been sent                                        idle_time
LEAVING     nothing was received for too long                                      leave_time
CLOSED      the connection is lost                                                 none
==========  =====================================================================  ===============

A timeout starts when its phase begins, also when a phase begins anew. The only exception are the
moves between READING and AHEAD: the request that arrives is the same, so that its timeout goes on.

A request does not count as arriving while its client waits for ``100 Continue`` before it sends the
body (RFC 9110, section 10.1.1). That is sent once all earlier requests have their responses. Nor
does it while nothing is read, because the client has sent too much ahead.

In the phases STALLED, BLOCKED and CLOSING the timeout is for a client that takes nothing: it starts
anew if the client has taken something.

LINGERING exists because a close with unread bytes would reset the connection, so that the client
could lose the error (RFC 9112, section 9.6).
"""

from enum import IntEnum

from jobproxy.http1.limits import ServerLimits


# An IntEnum, whose members are hashed without a call of a Python function: there are several
# lookups for each request.
class Phase(IntEnum):
    """What a connection is doing; see the table above."""

    SILENT = 0
    IDLE = 1
    READING = 2
    RESPONDING = 3
    AHEAD = 4
    STALLED = 5
    BLOCKED = 6
    LINGERING = 7
    CLOSING = 8
    LEAVING = 9
    CLOSED = 10


class Event(IntEnum):
    """What happens to a connection."""

    #: A request has begun to arrive.
    BEGIN = 0
    #: The request is complete or refused, or its client waits for ``100 Continue``.
    REST = 1
    #: A complete request has been handed to the resource.
    START = 2
    #: Its response has been sent, and another request may follow.
    RESPOND = 3
    #: Its response has been sent or is not waited for, and no other may follow.
    CLOSE = 4
    #: An error has been sent instead of a response, and no other may follow.
    REFUSE = 5
    #: The client does not read, and the buffer of the transport is full.
    BLOCK = 6
    #: The client has read enough of it.
    UNBLOCK = 7
    #: The timeout of a phase without a request is over.
    TIME_OUT = 8
    #: The connection is lost.
    LOSE = 9


class IllegalEvent(Exception):
    """An event that cannot happen in a phase: a bug of the connection."""


class _Transitions(dict[tuple[Phase, Event], Phase]):
    def __missing__(self, key: tuple[Phase, Event]) -> Phase:
        phase, event = key
        raise IllegalEvent(f"{event.name} in the phase {phase.name}")


_LEGAL: dict[tuple[Phase, Event], Phase] = {
    (Phase.SILENT, Event.BEGIN): Phase.READING,
    (Phase.SILENT, Event.START): Phase.RESPONDING,
    (Phase.SILENT, Event.BLOCK): Phase.BLOCKED,
    (Phase.SILENT, Event.REFUSE): Phase.LINGERING,
    (Phase.SILENT, Event.CLOSE): Phase.CLOSING,
    (Phase.SILENT, Event.TIME_OUT): Phase.LEAVING,
    (Phase.IDLE, Event.BEGIN): Phase.READING,
    (Phase.IDLE, Event.START): Phase.RESPONDING,
    (Phase.IDLE, Event.BLOCK): Phase.BLOCKED,
    (Phase.IDLE, Event.REFUSE): Phase.LINGERING,
    (Phase.IDLE, Event.CLOSE): Phase.CLOSING,
    (Phase.IDLE, Event.TIME_OUT): Phase.LEAVING,
    (Phase.READING, Event.BEGIN): Phase.READING,
    (Phase.READING, Event.REST): Phase.IDLE,
    (Phase.READING, Event.START): Phase.AHEAD,
    (Phase.READING, Event.BLOCK): Phase.BLOCKED,
    (Phase.RESPONDING, Event.BEGIN): Phase.AHEAD,
    (Phase.RESPONDING, Event.RESPOND): Phase.IDLE,
    (Phase.RESPONDING, Event.BLOCK): Phase.STALLED,
    (Phase.RESPONDING, Event.CLOSE): Phase.CLOSING,
    (Phase.AHEAD, Event.BEGIN): Phase.AHEAD,
    (Phase.AHEAD, Event.REST): Phase.RESPONDING,
    (Phase.AHEAD, Event.RESPOND): Phase.READING,
    (Phase.AHEAD, Event.BLOCK): Phase.STALLED,
    (Phase.AHEAD, Event.CLOSE): Phase.CLOSING,
    (Phase.STALLED, Event.UNBLOCK): Phase.RESPONDING,
    (Phase.STALLED, Event.RESPOND): Phase.BLOCKED,
    (Phase.STALLED, Event.CLOSE): Phase.CLOSING,
    (Phase.BLOCKED, Event.UNBLOCK): Phase.IDLE,
    (Phase.BLOCKED, Event.REFUSE): Phase.LINGERING,
    (Phase.BLOCKED, Event.CLOSE): Phase.CLOSING,
    **{(phase, Event.LOSE): Phase.CLOSED for phase in Phase if phase is not Phase.CLOSED},
}

#: The phase that follows from a phase and an event; a lookup raises :class:`IllegalEvent` if none
#: does.
TRANSITIONS = _Transitions(_LEGAL)

#: Moves that do not start the timeout anew.
GOES_ON = frozenset({(Phase.READING, Phase.AHEAD), (Phase.AHEAD, Phase.READING)})

#: A request is arriving.
ARRIVING = frozenset({Phase.READING, Phase.AHEAD})
#: The next request can be handed to the resource.
READY = frozenset({Phase.SILENT, Phase.IDLE, Phase.READING})
#: The client does not read its response.
UNREAD = frozenset({Phase.STALLED, Phase.BLOCKED})
#: The client may be reading slowly.
SENDING = frozenset({Phase.STALLED, Phase.BLOCKED, Phase.CLOSING})
#: Nothing is parsed any more.
DEAF = frozenset({Phase.LINGERING, Phase.CLOSING, Phase.LEAVING, Phase.CLOSED})


def timeouts_of(limits: ServerLimits) -> dict[Phase, float | None]:
    """Return the timeout of each phase, in seconds; None for one without."""
    return {
        Phase.SILENT: limits.silent_time,
        Phase.IDLE: limits.idle_time,
        Phase.READING: limits.request_time,
        Phase.RESPONDING: None,
        Phase.AHEAD: limits.request_time,
        Phase.STALLED: limits.idle_time,
        Phase.BLOCKED: limits.idle_time,
        Phase.LINGERING: limits.linger_time,
        Phase.CLOSING: limits.idle_time,
        Phase.LEAVING: limits.leave_time,
        Phase.CLOSED: None,
    }
