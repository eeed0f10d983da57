"""The states of a job, and the state machine of its record.

A client sends a job (``queued``), its start request is sent (``starting``) and acknowledged
(``running``), and its callback ends it. Two things make it less simple:

* A start request can be *ambiguous*: it may have reached the job server although no usable ack came
  back. Such a job is ``unconfirmed``. It waits for its callback, and is started again only with
  ``--retry always``. So a start request can be sent in three states, and if it certainly was not
  read, the job returns to its earlier state. This is why there are three states for ``starting``: a
  job that was unconfirmed or running can never become ``queued`` again, whatever becomes of the
  next start request, and no client may get ``started: no``.
* A callback can come at any time: before the ack, after a refusal, after the job has failed. It is
  the result, unless the job has one already.

:data:`TRANSITIONS` holds every state, and the events that it accepts. Any other event is
a bug in the proxy and raises :class:`IllegalTransition`. Only :meth:`JobRecord.on` writes a
record's state, and only the correlation table calls it.
"""

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """How far a job has come.

    :ivar word: its name for clients, operators and the log.
    """

    #: No start request was sent, or certainly none was read.
    QUEUED = ("queued", "queued")
    #: The first start request is under way.
    STARTING = ("starting", "starting")
    #: A start request is under way, and an earlier one was ambiguous.
    STARTING_AGAIN = ("starting-again", "starting")
    #: A start request is under way, and an earlier one was acknowledged (``--on-lost restart``).
    RESTARTING = ("restarting", "starting")
    #: The last start request was ambiguous.
    UNCONFIRMED = ("unconfirmed", "unconfirmed")
    #: A start was acknowledged, here or on another node.
    RUNNING = ("running", "running")
    #: There is a problem instead of a result. A callback can still bring the result.
    FAILED = ("failed", "ended")
    #: There is a result.
    COMPLETED = ("completed", "ended")
    #: The record was removed from the table.
    FORGOTTEN = ("forgotten", "ended")

    # The method of Enum is written in Python, which is slow for the dictionaries below.
    __hash__ = object.__hash__

    def __init__(self, _: str, word: str) -> None:
        self.word = word


class Event(Enum):
    """What happens to a job."""

    #: A start request is sent.
    SEND = "send"
    #: The job server acknowledged a start.
    ACK = "ack"
    #: The start request may have reached the job server, but there is no usable ack.
    DOUBT = "doubt"
    #: The start request certainly was not read, or it was refused.
    RETRACT = "retract"
    #: Another node starts or has started the job.
    HAND_OVER = "hand over"
    #: The result arrives.
    COMPLETE = "complete"
    #: The job ends without a result.
    FAIL = "fail"
    #: The record is removed from the table.
    FORGET = "forget"

    __hash__ = object.__hash__


TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.QUEUED: {
        Event.SEND: State.STARTING,
        Event.HAND_OVER: State.RUNNING,
        Event.COMPLETE: State.COMPLETED,
        Event.FAIL: State.FAILED,
        Event.FORGET: State.FORGOTTEN,
    },
    State.STARTING: {
        Event.ACK: State.RUNNING,
        Event.DOUBT: State.UNCONFIRMED,
        Event.RETRACT: State.QUEUED,
        Event.COMPLETE: State.COMPLETED,
        Event.FAIL: State.FAILED,
        Event.FORGET: State.FORGOTTEN,
    },
    State.STARTING_AGAIN: {
        Event.ACK: State.RUNNING,
        Event.DOUBT: State.UNCONFIRMED,
        Event.RETRACT: State.UNCONFIRMED,
        Event.COMPLETE: State.COMPLETED,
        Event.FAIL: State.FAILED,
        Event.FORGET: State.FORGOTTEN,
    },
    State.RESTARTING: {
        Event.ACK: State.RUNNING,
        Event.DOUBT: State.RUNNING,
        Event.RETRACT: State.RUNNING,
        Event.COMPLETE: State.COMPLETED,
        Event.FAIL: State.FAILED,
        Event.FORGET: State.FORGOTTEN,
    },
    State.UNCONFIRMED: {
        Event.SEND: State.STARTING_AGAIN,
        Event.DOUBT: State.UNCONFIRMED,
        Event.COMPLETE: State.COMPLETED,
        Event.FAIL: State.FAILED,
        Event.FORGET: State.FORGOTTEN,
    },
    State.RUNNING: {
        Event.SEND: State.RESTARTING,
        Event.ACK: State.RUNNING,
        Event.DOUBT: State.RUNNING,
        Event.COMPLETE: State.COMPLETED,
        Event.FAIL: State.FAILED,
        Event.FORGET: State.FORGOTTEN,
    },
    State.FAILED: {
        Event.COMPLETE: State.COMPLETED,
        Event.FORGET: State.FORGOTTEN,
    },
    State.COMPLETED: {
        Event.FORGET: State.FORGOTTEN,
    },
    State.FORGOTTEN: {},
}

#: The states of a job that has ended.
ENDED = frozenset({State.FAILED, State.COMPLETED, State.FORGOTTEN})


class IllegalTransition(Exception):
    """An event came in a state that does not accept it: a bug in the proxy."""
