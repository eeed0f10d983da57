"""One proxy in memory whose store is a real file, and the processes that come after it."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred

from jobproxy.jobs.retention import Bounds
from jobproxy.store.sqlite import SqliteStore
from jobproxy.store.sqlite_address import read_sqlite_address
from jobproxy.store.sqlite_file import SqliteFile
from jobproxy.store.sqlite_session import Session
from jobproxy.store.times import TIMES
from jobproxy.wire.tokens import LIFETIME
from tests.support.cluster import Cluster, ClusterTestCase, Node
from tests.support.proxy import EPOCH


class Thread:
    """Stands for the thread of a store; does its work at once, unless it hangs.

    :ivar hangs: whether work is only done by :meth:`go_on`.
    """

    def __init__(self) -> None:
        self.hangs = False
        self._works: list[tuple[Callable[[], Any], Deferred[Any]]] = []
        self._connections: list[sqlite3.Connection] = []

    def call(self, work: Callable[[], Any]) -> Deferred[Any]:
        """Do some work, or keep it."""
        if not self.hangs:
            return maybeDeferred(work).addCallback(self._note)
        done: Deferred[Any] = Deferred()
        self._works.append((work, done))
        return done

    def go_on(self) -> None:
        """Do all work that was kept, one after another, and hang no more."""
        while self._works:
            work, done = self._works.pop(0)
            maybeDeferred(work).addCallback(self._note).chainDeferred(done)
        self.hangs = False

    def drop(self) -> None:
        """Forget the work that was kept, and close all files, as the process has ended."""
        self._works = []
        while self._connections:
            self._connections.pop().close()

    def _note(self, done: Any) -> Any:
        if isinstance(done, sqlite3.Connection):
            self._connections.append(done)
        return done


class RestartTestCase(ClusterTestCase):
    """One node with a file, which can be killed and started again.

    :cvar query: of the address of the store.
    :cvar bounds: of the retention.
    """

    size = 1
    query = ""
    bounds = Bounds()

    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "store.db"
        self.thread = Thread()
        super().setUp()

    def tearDown(self) -> None:
        for node in self.cluster.living:
            node.stop()
        super().tearDown()

    def make_cluster(self) -> Cluster:
        return Cluster(self.size, self.settings, self.make_store)

    def make_store(self, node: Node) -> tuple[Any, Callable[[], object]]:
        """Return the store of a node in the file that all share, one after another."""
        node.bounds = self.bounds
        file = SqliteFile(read_sqlite_address(f"{self.path}{self.query}"))
        now = lambda: EPOCH + node.own_clock.seconds()  # noqa: E731
        session = Session(node.own_clock, file, self.thread.call, now, TIMES)
        retain, key_life = self.settings.get("retain", 300.0), self.settings.get("key_life")
        return SqliteStore(session, node.name, retain, key_life or LIFETIME), file.unlock

    @property
    def node(self) -> Node:
        """The process that runs."""
        return self.cluster.nodes[0]

    def restart(self, *, kill: bool = True) -> Node:
        """Kill the process, or stop it in good order, and start another one."""
        self.thread.drop()
        if kill:
            self.node.kill()
        else:
            self.node.stop()
        node = self.cluster.replace(self.node)
        self.cluster.settle()
        return node
