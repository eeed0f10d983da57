"""The store in an SQLite file, for one node: what it keeps survives a restart, and a kill.

A restart is the death of one node and the birth of another, with the name of its own. So the jobs
of earlier processes are those of dead nodes, as in a cluster.
"""

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from attrs import define
from twisted.internet.defer import Deferred
from zope.interface import implementer

from jobproxy.store import sqlite_statements as statements
from jobproxy.store.interface import Claim, IStore, Listener, Message, MessageKind, Placement
from jobproxy.store.orphans import Orphan, Position
from jobproxy.store.sqlite_session import Session
from jobproxy.store.times import NOTE_TIME
from jobproxy.util.histogram import Histogram


@implementer(IStore)
@define(eq=False)
class SqliteStore:
    """The node's access to the file; see :class:`IStore`. There are no other nodes.

    :param node: the name of this node.
    :param retain: seconds that results are kept.
    :param key_life: seconds that claims are kept.
    """

    is_local: ClassVar[bool] = True

    _session: Session
    _node: str
    _retain: float
    _key_life: float

    @property
    def calls(self) -> Counter[str]:
        return self._session.calls

    @property
    def durations(self) -> Histogram:
        return self._session.durations

    @property
    def is_joined(self) -> bool:
        return self._session.is_joined

    @property
    def is_up(self) -> bool:
        return self._session.is_up

    def open(self, listener: Listener) -> None:
        self._session.open(listener)

    def close(self) -> Deferred[Any]:
        return self._session.close()

    def claim(self, key_digest: bytes, claim: Claim) -> Deferred[Claim]:
        life = self._key_life
        return self._session.run(
            lambda db, now: statements.put_claim(db, key_digest, claim, now, life)
        )

    def put_claims_again(self, claims: Sequence[tuple[bytes, Claim]]) -> Deferred[None]:
        life = self._key_life
        return self._session.run(lambda db, now: statements.put_claims(db, claims, now, life))

    def release_claim(self, key_digest: bytes, claim: Claim) -> Deferred[None]:
        return self._session.run(
            lambda db, _: statements.release_claim(db, key_digest, claim.job_id)
        )

    def find_claim(self, key_digest: bytes) -> Deferred[Claim | None]:
        return self._session.run(lambda db, now: statements.find_claim(db, key_digest, now))

    def put_result(
        self,
        job_id: str,
        body: bytes,
        nodes: Sequence[str],
        *,
        key_digest: bytes | None = None,  # noqa: ARG002 - the claim is found by the job id
        is_orphan: bool | None = None,
        upstream_id: str | None = None,
    ) -> Deferred[Placement]:
        is_alive = self._node in nodes
        becomes_orphan = not is_alive if is_orphan is None else is_orphan

        def put(db: sqlite3.Connection, now: float) -> Placement:
            return statements.put_result(
                db,
                job_id,
                body,
                upstream_id=upstream_id,
                now=now,
                retain=self._retain,
                is_orphan=becomes_orphan,
            )

        def send(placement: Placement) -> Placement:
            if nodes and placement is not Placement.CONFLICT:
                self._session.receive_soon(Message(MessageKind.RESULT, job_id, self._node, body))
            is_new = placement is Placement.TAKEN
            return Placement.ORPHANED if is_new and not is_alive else placement

        return self._session.run(put).addCallback(send)

    def confirm(
        self,
        job_id: str,
        *,
        key_digest: bytes | None = None,  # noqa: ARG002
        is_collected: bool = False,
    ) -> Deferred[None]:
        def note(db: sqlite3.Connection, _: float) -> None:
            statements.end_claim(db, job_id)
            if is_collected:
                statements.claim_orphan(db, job_id)

        return self._session.run(note)

    def put_note(self, job_id: str, ack: bytes) -> Deferred[None]:
        return self._session.run(
            lambda db, now: statements.put_note(db, job_id, ack, now, NOTE_TIME)
        )

    def collect_results(self, job_ids: Sequence[str]) -> Deferred[list[bytes | None]]:
        return self._session.run(
            lambda db, now: [statements.collect_job(db, each, now)[0] for each in job_ids]
        )

    def collect_job(self, job_id: str) -> Deferred[tuple[bytes | None, bytes | None]]:
        return self._session.run(lambda db, now: statements.collect_job(db, job_id, now))

    def discard_result(self, job_id: str) -> Deferred[None]:
        return self._session.run(lambda db, _: statements.discard_result(db, job_id))

    def send(self, node: str, message: Message) -> Deferred[bool]:
        def send(_: object) -> bool:
            if node == self._node:
                self._session.receive_soon(message)
            return node == self._node

        return self._session.run(lambda *_: None).addCallback(send)

    def list_orphans(self, limit: int, after: Position) -> Deferred[list[Orphan]]:
        return self._session.run(lambda db, now: statements.list_orphans(db, limit, after, now))

    def count_orphans(self) -> Deferred[int]:
        return self._session.run(statements.count_orphans)

    def find_orphan(self, job_id: str) -> Deferred[bytes | None]:
        return self._session.run(lambda db, now: statements.find_orphan(db, job_id, now))

    def list_nodes(self) -> Deferred[list[str]]:
        return self._session.run(lambda *_: [self._node])
