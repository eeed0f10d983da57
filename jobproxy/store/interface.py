"""What the nodes of a cluster need of a store that they share."""

import json
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred, succeed
from zope.interface import Attribute, Interface

from jobproxy.util.histogram import Histogram


class StoreUnreachable(Exception):
    """The store did not answer in time; what was asked of it may have been done all the same."""


class Kind(Enum):
    """What one node tells another of a job."""

    #: The job's result has come; with it.
    RESULT = "result"
    #: The job server said something, but the job goes on; with what it said.
    PROGRESS = "progress"
    #: The sender wants to know how the job goes, and to be told when it ends.
    WATCH = "watch"
    #: The job goes on; with the ack of its start, if there is one.
    STATE = "state"
    #: The job was not started, or nothing is known of it.
    GONE = "gone"
    #: Something that a node tells itself, to see whether it hears anything.
    BEAT = "beat"


@frozen
class Message:
    """What one node tells another.

    :param job_id: the job's; empty for a beat.
    :param sender: the node that says it.
    """

    kind: Kind
    job_id: str
    sender: str
    body: bytes = field(default=b"", repr=False)

    def to_bytes(self) -> bytes:
        """Return the message as it travels: a line of JSON, and the body as it is."""
        return f'["{self.kind.value}","{self.job_id}","{self.sender}"]\n'.encode() + self.body


def parse_message(data: bytes) -> Message:
    """Read a message.

    :raises ValueError: if it is not one that we know; another version may have sent it.
    """
    head, _, body = data.partition(b"\n")
    kind, job_id, sender = json.loads(head)
    return Message(Kind(kind), job_id, sender, body)


@frozen
class Claim:
    """The right to start the job of an alias, which one node alone has.

    :param request_digest: what has to be the same whenever the alias is used.
    """

    job_id: str
    request_digest: bytes = field(repr=False)


@frozen
class Orphan:
    """A result that nobody has waited for or asked for.

    :param upstream_id: the job server's id of the job, if it is known.
    :param age: seconds since it came.
    """

    job_id: str
    upstream_id: str | None
    body: bytes = field(repr=False)
    age: float


class Placement(Enum):
    """What became of a result that was put into the store."""

    #: Its node lives, and was told.
    TAKEN = "taken"
    #: Nobody waits for it any more, as its node is gone; it is kept.
    ORPHANED = "orphaned"
    #: The very same was there already.
    DUPLICATE = "duplicate"
    #: Another one was there already, and stays.
    CONFLICT = "conflict"


class Listener(Protocol):
    """Who gets the messages to a node."""

    def receive(self, message: Message) -> None:
        """Receive a message."""

    def catch_up(self) -> "Deferred[None]":
        """Ask the store for all that may have been said while the node could not hear.

        To be called once it hears again; nothing that is said meanwhile may be lost.
        """


class NobodyListens:
    """The listener of a store that is not open."""

    def receive(self, message: Message) -> None:
        """Drop the message."""

    def catch_up(self) -> "Deferred[None]":
        return succeed(None)


class IStore(Interface):
    """A store that the nodes of a cluster share, and that carries messages between them.

    As long as it is open it receives what other nodes send to this one. Everything that
    returns a Deferred fails with :class:`StoreUnreachable`, in bounded time, if the store cannot
    be reached.
    """

    is_joined: bool = Attribute("Whether the node has ever heard what others say to it.")
    is_up: bool = Attribute("Whether the store can be reached, and the node hears.")
    calls: Counter[str] = Attribute("How many times the store was asked, by how that went.")
    durations: Histogram = Attribute("How long it took to answer.")

    def open(listener: Listener) -> None:
        """Connect, now and whenever the connection is lost.

        :param listener: receives the messages to this node.
        """

    def close() -> "Deferred[Any]":
        """Receive nothing any more; fires once the connections are closed."""

    def claim(key_digest: bytes, claim: Claim) -> "Deferred[Claim]":
        """Have the right to start a job, unless somebody has it.

        :return: fires with the claim that counts now.
        """

    def reclaim(claims: Sequence[tuple[bytes, Claim]]) -> "Deferred[None]":
        """Claim again what was claimed already, as a store that was started anew has forgotten."""

    def release(key_digest: bytes, claim: Claim) -> "Deferred[None]":
        """Give up a claim; nothing happens if it does not count."""

    def settle(key_digest: bytes, claim: Claim) -> "Deferred[None]":
        """Keep a claim no longer than a result is kept."""

    def look_up(key_digest: bytes) -> "Deferred[Claim | None]":
        """Return the claim that counts, if there is one."""

    def put(
        job_id: str,
        body: bytes,
        tell: Sequence[str],
        *,
        key_digest: bytes | None = None,
        is_orphan: bool | None = None,
    ) -> "Deferred[Placement]":
        """Keep a job's result, if there is none yet, and tell it to nodes.

        :param tell: if there is none that lives, all others are told.
        :param key_digest: whose claim is to be kept no longer than the result.
        :param is_orphan: whether nobody waits for it; by default, whether no node was there to be
            told.
        """

    def note(job_id: str, ack: bytes) -> "Deferred[None]":
        """Keep it that a job goes on, for whoever asks for it when its node is gone.

        :param ack: the answer to its start, or nothing.
        """

    def fetch(job_ids: Sequence[str]) -> "Deferred[list[bytes | None]]":
        """Return the results of jobs, which are no orphans then."""

    def find(job_id: str) -> "Deferred[tuple[bytes | None, bytes | None]]":
        """Return a job's result, as :meth:`fetch` does, and what was noted of it."""

    def discard(job_id: str) -> "Deferred[None]":
        """Forget a result."""

    def send(node: str, message: Message) -> "Deferred[bool]":
        """Say something to a node.

        :return: fires with whether it lives.
        """

    def list_orphans() -> "Deferred[list[Orphan]]":
        """Return the orphans, the oldest first; not more than :data:`limits.MAX_LISTED`."""

    def find_orphan(job_id: str) -> "Deferred[bytes | None]":
        """Return an orphan's body; it stays an orphan."""

    def list_nodes() -> "Deferred[list[str]]":
        """Return the names of the nodes that live."""

    def acquire(account: str, limit: int, seconds: float) -> "Deferred[bool]":
        """Take one of an account's places, if there is one that is free.

        :param seconds: after which it is free again, if this node does not :meth:`free` it.
        """

    def free(account: str) -> "Deferred[None]":
        """Give a place back that this node has."""
