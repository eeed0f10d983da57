"""What the nodes of a cluster need from a store that they share."""

import json
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import Any, Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred, succeed
from zope.interface import Attribute, Interface

from jobproxy.store.orphans import Orphan, Position
from jobproxy.util.histogram import Histogram


class StoreUnreachable(Exception):
    """The store cannot be reached, did not respond in time, or responded with an error.

    It may have executed the command all the same.
    """


class MessageKind(Enum):
    """What a message says about a job. Nodes of other versions read the values."""

    #: The job has ended; the body is its result.
    RESULT = "result"
    #: A callback came that does not end the job; the body is that of the callback.
    PROGRESS = "progress"
    #: A callback came that only announces the result, which the owner has to fetch; the body is it.
    THIN = "thin"
    #: The sender asks the owner for the job's state, and for a message when the job ends.
    WATCH = "watch"
    #: The job has not ended; the body is the ack of its start, or empty.
    STATE = "state"
    #: The owner has certainly not started the job, and will not.
    NOT_STARTED = "not-started"
    #: The owner does not know the job any more; or, to the owner: the operator has removed its
    #: orphan.
    GONE = "gone"
    #: A node's message to itself: a check that its subscription works.
    HEARTBEAT = "beat"


@frozen
class Message:
    """A message from one node to another.

    :param job_id: empty in a heartbeat.
    :param sender: the name of the node that sends it.
    """

    kind: MessageKind
    job_id: str
    sender: str
    body: bytes = field(default=b"", repr=False)

    def to_bytes(self) -> bytes:
        """Return the message as it is sent: a line of JSON, then the body unchanged."""
        return f'["{self.kind.value}","{self.job_id}","{self.sender}"]\n'.encode() + self.body


def parse_message(data: bytes) -> Message:
    """Parse a message.

    :raises ValueError: if its format or kind is unknown; another version may have sent it.
    """
    head, _, body = data.partition(b"\n")
    kind, job_id, sender = json.loads(head)
    return Message(MessageKind(kind), job_id, sender, body)


@frozen
class Claim:
    """The right to start the job of an idempotency key. A key has one valid claim at most.

    :param request_digest: of the request that claimed the key; a request with another digest must
        not use the key.
    :param has_ended: whether there was a result, so that the claim must stay for as long as the
        key lives.
    """

    job_id: str
    request_digest: bytes = field(repr=False)
    has_ended: bool = False


class Placement(Enum):
    """What became of a result that was put into the store."""

    #: It was sent to at least one of the named nodes that is alive.
    TAKEN = "taken"
    #: None of the named nodes is alive; it is kept for a client that asks for it.
    ORPHANED = "orphaned"
    #: The store has the same result of this job already.
    DUPLICATE = "duplicate"
    #: The store has another result of this job, and keeps that one.
    CONFLICT = "conflict"


class Listener(Protocol):
    """Receives the messages to a node."""

    def receive(self, message: Message) -> None:
        """Receive a message."""

    def catch_up(self) -> "Deferred[None]":
        """Ask the store for everything that may have been sent while the node was disconnected.

        To be called when the node receives messages again, so that none is lost in between.
        """


class NullListener:
    """The listener of a store that is not open."""

    def receive(self, message: Message) -> None:
        """Drop the message."""

    def catch_up(self) -> "Deferred[None]":
        return succeed(None)


class IStore(Interface):
    """A store that the nodes of a cluster share, and that carries messages between them.

    While it is open it receives the messages to this node. Every Deferred fails with
    :class:`StoreUnreachable`, in bounded time, if the store cannot be reached.
    """

    is_joined: bool = Attribute("Whether the node has ever been connected and caught up.")
    is_local: bool = Attribute(
        "Whether calls take effect in their order, also after a failure, and cost no round trip."
    )
    is_up: bool = Attribute("Whether the store can be reached, and the node receives messages.")
    calls: Counter[str] = Attribute("The number of calls, by result: ok or failed.")
    durations: Histogram = Attribute("How long the calls took that did not fail.")

    def open(listener: Listener) -> None:
        """Connect, now and whenever the connection is lost.

        :param listener: receives the messages to this node.
        """

    def close() -> "Deferred[Any]":
        """Disconnect; fires once the connections are closed."""

    def claim(key_digest: bytes, claim: Claim) -> "Deferred[Claim]":
        """Claim a key, unless it has a valid claim already.

        :return: fires with the claim that is valid now.
        """

    def put_claims_again(claims: Sequence[tuple[bytes, Claim]]) -> "Deferred[None]":
        """Put back claims that were granted or seen earlier, as the store may have lost its data.

        :param claims: key digests and claims. A key that has a claim keeps it.
        """

    def release_claim(key_digest: bytes, claim: Claim) -> "Deferred[None]":
        """Remove a claim; nothing happens if another one is valid, or if its job has ended."""

    def find_claim(key_digest: bytes) -> "Deferred[Claim | None]":
        """Return the valid claim of a key, if there is one."""

    def put_result(
        job_id: str,
        body: bytes,
        nodes: Sequence[str],
        *,
        key_digest: bytes | None = None,
        is_orphan: bool | None = None,
        upstream_id: str | None = None,
    ) -> "Deferred[Placement]":
        """Store a job's result, unless there is one already, and send it to nodes.

        Its note is removed.

        :param nodes: the nodes to send it to. If none of them is alive, it is sent to all nodes.
        :param key_digest: the job's key, whose claim now says that the job has ended. A claim that
            was made for the job says so too if its key is not known here.
        :param is_orphan: whether no client waits for it; :data:`None`: if none of the nodes is
            alive, or those that are do not :meth:`confirm` it before they die.
        :param upstream_id: the job server's name of the job, for the list of orphans.
        """

    def confirm(
        job_id: str, *, key_digest: bytes | None = None, is_collected: bool = False
    ) -> "Deferred[None]":
        """Note that this node has received a result that :meth:`put_result` sent to it.

        :param key_digest: as for :meth:`put_result`.
        :param is_collected: whether a client got the result, so that it is no orphan.
        """

    def put_note(job_id: str, ack: bytes) -> "Deferred[None]":
        """Note that a job exists that has not ended, for clients that ask after its owner's end.

        Nothing happens if its result is there already.

        :param ack: the body of the ack of its start, or empty.
        """

    def collect_results(job_ids: Sequence[str]) -> "Deferred[list[bytes | None]]":
        """Return the results of jobs, in order, for clients: they are not orphans any more."""

    def collect_job(job_id: str) -> "Deferred[tuple[bytes | None, bytes | None]]":
        """Return a job's result, as :meth:`collect_results` does, and its note."""

    def discard_result(job_id: str) -> "Deferred[None]":
        """Remove a result."""

    def send(node: str, message: Message) -> "Deferred[bool]":
        """Send a message to a node.

        :return: fires with whether the node is alive.
        """

    def list_orphans(limit: int, after: Position) -> "Deferred[list[Orphan]]":
        """Return the orphans after a position, the oldest first, and at most so many."""

    def count_orphans() -> "Deferred[int]":
        """Return how many orphans there are."""

    def find_orphan(job_id: str) -> "Deferred[bytes | None]":
        """Return an orphan's body; it stays an orphan."""

    def list_nodes() -> "Deferred[list[str]]":
        """Return the names of the nodes that are alive."""
