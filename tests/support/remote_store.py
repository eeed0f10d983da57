"""A store in memory behind a network, which has a latency and can break."""

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

from attrs import define, field
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from zope.interface import implementer

from jobproxy.store.interface import IStore, Listener, Message, StoreUnreachable
from jobproxy.store.memory import MemoryStore
from jobproxy.store.shared import Shared
from jobproxy.store.slots import ISlotStore
from jobproxy.util.histogram import Histogram

#: Dead nodes, and what they wait for. Python ends the coroutines of objects that it collects, which
#: then do what no dead process does.
KEPT_ALIVE: list[object] = []

Request = Callable[[MemoryStore], Deferred[Any]]


@define(eq=False)
class Connection:
    """One connection of a node to the store, and the listener of its messages.

    :param catch_up: is called once the node receives messages.
    :param deliver: is called with each message, after the latency.
    """

    shared: Shared
    node: str
    catch_up: Callable[[], Deferred[None]]
    deliver: Callable[["Connection", Message], None]
    store: MemoryStore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.store = MemoryStore(self.shared, self.node)

    def receive(self, message: Message) -> None:
        self.deliver(self, message)


@implementer(IStore, ISlotStore)
@define(eq=False)
class RemoteStore:
    """One node's end of a store: its requests and messages are lost with their connection.

    :ivar latency: seconds for each way.
    :ivar loses_requests: whether the requests just before a break are not done; their responses
        are lost in any case.
    :ivar loses_messages: whether messages to the node are lost.
    """

    _shared: Shared
    node: str
    is_local: ClassVar[bool] = False
    latency: float = field(default=0.0, init=False)
    loses_requests: bool = field(default=False, init=False)
    loses_messages: bool = field(default=False, init=False)
    is_joined: bool = field(default=False, init=False)
    calls: Counter[str] = field(factory=Counter, init=False)
    durations: Histogram = field(factory=Histogram, init=False, repr=False)
    _listener: Listener = field(init=False)
    _connection: Connection | None = field(default=None, init=False)
    _is_dead: bool = field(default=False, init=False)
    _pending: dict[Deferred[Any], None] = field(factory=dict, init=False)

    def __getattr__(self, name: str) -> Callable[..., Deferred[Any]]:
        """Return what sends a request of this name, with the store's own arguments."""
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self._send(
            lambda store: getattr(store, name)(*args, **kwargs)
        )

    @property
    def is_up(self) -> bool:
        return self._connection is not None

    def open(self, listener: Listener) -> None:
        self._listener = listener
        self.come_back()

    def close(self) -> Deferred[Any]:
        self.go_away()
        return succeed(None)

    def die(self) -> None:
        """Disconnect without a message; requests get no response any more."""
        self._is_dead = True
        self._disconnect()

    def go_away(self) -> None:
        """Break the connection."""
        self._disconnect()
        for waiting in list(self._pending):
            self._shared.clock.callLater(0, self._fail, waiting)

    def come_back(self) -> None:
        """Connect again; the node has joined once it has caught up."""
        self._connection = Connection(self._shared, self.node, self._catch_up, self._receive)
        self._connection.store.open(self._connection)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.store.go_away()

    def _catch_up(self) -> Deferred[None]:
        return self._listener.catch_up().addCallbacks(
            self._join, lambda failure: failure.trap(StoreUnreachable)
        )

    def _join(self, _: object) -> None:
        self.is_joined = True

    def _receive(self, connection: Connection, message: Message) -> None:
        if self.latency:
            self._shared.clock.callLater(self.latency, self._deliver, connection, message)
        else:
            self._deliver(connection, message)

    def _deliver(self, connection: Connection, message: Message) -> None:
        if connection is self._connection and not self.loses_messages:
            self._listener.receive(message)

    def _send(self, request: Request) -> Deferred[Any]:
        connection = self._connection
        if self._is_dead:
            never: Deferred[Any] = Deferred()
            KEPT_ALIVE.append(never)
            return never
        if connection is None:
            self.calls["failed"] += 1
            return fail(StoreUnreachable())
        if not self.latency:
            self.calls["ok"] += 1
            return request(connection.store)
        waiting: Deferred[Any] = Deferred(lambda _: self._pending.pop(waiting))
        self._pending[waiting] = None
        self._shared.clock.callLater(self.latency, self._do, request, waiting, connection)
        return waiting

    def _do(self, request: Request, waiting: Deferred[Any], connection: Connection) -> None:
        """Let the store do what was requested, perhaps over a connection that has broken since."""
        if connection is not self._connection and self.loses_requests:
            return
        is_up, connection.store.is_up = connection.store.is_up, True
        done = maybeDeferred(request, connection.store)
        connection.store.is_up = is_up
        self._shared.clock.callLater(self.latency, self._respond, done, waiting, connection)

    def _respond(self, done: Deferred[Any], waiting: Deferred[Any], connection: Connection) -> None:
        if connection is self._connection and waiting in self._pending:
            del self._pending[waiting]
            self.calls["ok"] += 1
            done.chainDeferred(waiting)

    def _fail(self, waiting: Deferred[Any]) -> None:
        if waiting in self._pending:
            del self._pending[waiting]
            self.calls["failed"] += 1
            waiting.errback(StoreUnreachable())
