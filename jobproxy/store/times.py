"""Times in seconds that are the same in every store."""

from attrs import frozen

from jobproxy.wire.tokens import LIFETIME

#: How long notes are kept: as long as the token of their job is valid.
NOTE_TIME = LIFETIME


@frozen
class Times:
    """The times of a node's connection to the store, in seconds.

    :param beat: between two heartbeats of the node.
    :param lease: how long the node counts as alive after a heartbeat.
    :param settle: how long no new claim is granted after the store was started without its data.
        Meanwhile the nodes put their claims into it again.
    :param answer: the timeout of one command.
    """

    beat: float = 2.0
    lease: float = 10.0
    settle: float = 5.0
    answer: float = 2.0


#: Those of a real proxy.
TIMES = Times()
