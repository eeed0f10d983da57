"""The simulator of the job server: its HTTP interface, and the running of its jobs."""

import json
import math
import random
from collections.abc import Coroutine
from typing import Any, cast

from attrs import asdict, define, field
from klein import Klein
from klein.resource import KleinResource
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import IRequest

from jobproxy.http1.client import JSON, PlainClient, read_body
from jobproxy.sandbox.faults import Fault, Faults
from jobproxy.sandbox.jobs import Job, Workshop
from jobproxy.sandbox.network import Connection, connection_of
from jobproxy.sandbox.proofs import BadProof, unpack_proof
from jobproxy.sandbox.slots import Slots

_log = Logger()

MAX_BODY = 50_000_000
CALLBACK_TIMEOUT = 30.0
#: Connections that are accepted at once before a port is closed; more than anybody makes.
MAX_ACCEPTS = 10_000
#: Characters that are kept of the answer to a callback.
MAX_NOTE = 200


class BadRequest(Exception):
    """The request is not one that the job server takes."""


@define(eq=False)
class Start:
    """A start call, and what becomes of it.

    :ivar callback_url: :data:`None` if the caller waits for the result.
    :ivar tag: is given back with the result, so that whoever gets that can tell whose it is; the
        real job server has no such thing.
    :ivar faults: those that were drawn, by their kind.
    :ivar begun: when it was read.
    :ivar delivered: those of its callbacks that were answered: how many seconds after the start
        was read each was sent, and the status and the body of the answer.
    """

    account: str
    callback_url: str | None
    tag: Any
    faults: dict[str, Fault] = field(factory=dict)
    begun: float = 0.0
    delivered: list[tuple[float, int, str]] = field(factory=list)

    def to_mishap(self) -> dict[str, Any]:
        """Return what there is to say of a start with faults."""
        return {
            "callback": self.callback_url,
            "tag": self.tag,
            "faults": list(self.faults),
            "delivered": self.delivered,
        }


@define
class Stats:
    """What happened since the simulator was started."""

    started: int = 0
    completed: int = 0
    failed: int = 0
    callbacks_sent: int = 0
    callbacks_accepted: int = 0
    #: Starts with a callback URL that an earlier one had; busy, which reads nothing, is left out.
    repeated_callback_urls: int = 0
    #: Most starts and waits of one account that were under way or queued at once.
    most_queued: int = 0
    faults: dict[str, int] = field(factory=dict)


@define(eq=False)
class Simulator:
    """A job server like the real one.

    :param duration: seconds that a job takes.
    :param jitter: seconds by which that varies, up and down.
    :param latency: seconds that a message takes through the network, each way.
    :param random: where jitter and faults come from.
    """

    app = Klein()

    _treq: PlainClient
    _clock: IReactorTime
    _workshop: Workshop
    _slots: Slots
    _random: random.Random = field(kw_only=True)
    _faults: Faults = field(factory=Faults, kw_only=True)
    _duration: float = field(default=0.5, kw_only=True)
    _jitter: float = field(default=0.0, kw_only=True)
    _latency: float = field(default=0.0, kw_only=True)
    stats: Stats = field(factory=Stats, init=False)
    #: The starts that had faults.
    mishaps: list[Start] = field(factory=list, init=False, repr=False)
    _callback_urls: set[str] = field(factory=set, init=False, repr=False)
    _queued: dict[str, int] = field(factory=dict, init=False, repr=False)

    def resource(self) -> KleinResource:
        return self.app.resource()

    @app.handle_errors(BadRequest, BadProof)
    def refuse(self, request: IRequest, failure: Failure) -> bytes:
        return _answer(request, {"error": str(failure.value)}, 400)

    @app.route("/start", methods=["POST"])
    async def start(self, request: Request) -> bytes:
        """Run a job: answer at its end, or at once and call back at its end."""
        start = _read_start(request)
        connection = connection_of(request)
        self._count(start.account, 1)
        try:
            await self._slots.acquire(start.account, connection)
            try:
                self._draw(start)
                if "refused" in start.faults:
                    self._spawn(self._close_port(connection, start.faults["refused"].seconds))
                return await self._serve(request, start)
            finally:
                self._slots.release(start.account)
        finally:
            self._count(start.account, -1)

    @app.route("/stats", methods=["GET"])
    def show_stats(self, request: Request) -> bytes:
        return _answer(request, asdict(self.stats))

    @app.route("/mishaps", methods=["GET"])
    def show_mishaps(self, request: Request) -> bytes:
        """Say of each start that had faults what became of it."""
        return _answer(request, [start.to_mishap() for start in self.mishaps])

    @app.route("/verify", methods=["POST"])
    def verify(self, request: Request) -> bytes:
        """Say how many of the jobs of a proof were really run here; none counts twice."""
        jobs = unpack_proof(_read_body(request).decode("ascii", "replace"))
        genuine = {job for job in jobs if self._workshop.is_genuine(job)}
        return _answer(request, {"jobs": len(jobs), "genuine": len(genuine)})

    def _draw(self, start: Start) -> None:
        start.begun = self._clock.seconds()
        start.faults = self._faults.draw(self._random)
        for kind in start.faults:
            self.stats.faults[kind] = self.stats.faults.get(kind, 0) + 1
        if start.faults:
            self.mishaps.append(start)

    async def _serve(self, request: Request, start: Start) -> bytes:
        faults, connection = start.faults, connection_of(request)
        if "busy" in faults:
            request.setHeader(b"retry-after", b"%d" % math.ceil(faults["busy"].seconds))
            return _answer(request, {"error": "busy"}, 503)
        if start.callback_url in self._callback_urls:
            self.stats.repeated_callback_urls += 1
        if start.callback_url is not None:
            self._callback_urls.add(start.callback_url)
        if "error" in faults:
            return _answer(request, {"error": "something went wrong"}, 500)
        job = self._workshop.start()
        self.stats.started += 1
        if start.callback_url is None:
            await self._pause(self._vary_duration())
            return _answer(request, self._end(job, start))
        if "early" in faults:
            await self._deliver(start, self._end(job, start))
        else:
            self._spawn(self._finish(job, start))
        if "reset" in faults:
            connection.abortConnection()
        if "slow" in faults:
            await self._pause(faults["slow"].seconds)
        if "garbage" in faults:
            return _answer(request, "<html>Not what you expect", 200)
        return _answer(request, job.ack())

    async def _close_port(self, connection: Connection, seconds: float) -> None:
        """Have nobody listen for some time on the port that a connection came in on."""
        port = cast(Any, connection.transport).server
        if not port.connected:
            return
        # Those that the kernel has accepted already would not be refused, but reset.
        port.numberAccepts = MAX_ACCEPTS
        port.doRead()
        port.stopReading()
        port.connectionLost(Failure(ConnectionDone()))
        await self._pause(seconds)
        port.startListening()

    async def _finish(self, job: Job, start: Start) -> None:
        await self._pause(self._vary_duration())
        result = self._end(job, start)
        if "late" in start.faults:
            await self._pause(start.faults["late"].seconds)
        await self._deliver(start, result)

    async def _deliver(self, start: Start, result: dict[str, Any]) -> None:
        if "drop" in start.faults:
            return
        await self._call_back(start, result)
        if "duplicate" in start.faults:
            await self._call_back(start, result)

    def _end(self, job: Job, start: Start) -> dict[str, Any]:
        state = "failed" if "failed" in start.faults else "completed"
        if state == "failed":
            self.stats.failed += 1
        else:
            self.stats.completed += 1
        tag = {} if start.tag is None else {"tag": start.tag}
        return job.result(state) | tag

    async def _call_back(self, start: Start, result: dict[str, Any]) -> None:
        # A connection of its own has to be made for each callback: there, back and there again.
        await self._pause(3 * self._latency)
        self.stats.callbacks_sent += 1
        sent = round(self._clock.seconds() - start.begun, 3)
        assert start.callback_url is not None
        try:
            sending = Deferred.fromCoroutine(self._send(start.callback_url, result))
            status, answer = await sending.addTimeout(CALLBACK_TIMEOUT, self._clock)
        except Exception as error:  # whatever it is, it is the callback's receiver that has it
            _log.warn("a callback was not delivered: {error!r}", error=error)
            return
        start.delivered.append((sent, status, answer.decode("utf-8", "replace")[:MAX_NOTE]))
        if status == 200:
            self.stats.callbacks_accepted += 1

    async def _send(self, url: str, result: dict[str, Any]) -> tuple[int, bytes]:
        body = json.dumps(result, separators=(",", ":")).encode()
        response = await self._treq.request("POST", url, headers=JSON, data=body)
        return response.code, await read_body(response, MAX_BODY)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done in the background."""
        working = Deferred.fromCoroutine(work)
        working.addErrback(lambda failure: _log.failure("the simulator crashed", failure))

    def _vary_duration(self) -> float:
        return max(0.0, self._duration + self._random.uniform(-self._jitter, self._jitter))

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await deferLater(self._clock, seconds)

    def _count(self, account: str, change: int) -> None:
        queued = self._queued.get(account, 0) + change
        self._queued[account] = queued
        self.stats.most_queued = max(self.stats.most_queued, queued)
        if not queued:
            del self._queued[account]


def _read_start(request: Request) -> Start:
    """Return what a start call asks for."""
    try:
        body = json.loads(_read_body(request))
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise BadRequest("the body is not a JSON object")
    account, callback_url = body.get("account"), body.get("callback")
    if not isinstance(account, str) or not account:
        raise BadRequest("account must be a string")
    if body.get("wait") is True:
        return Start(account, None, body.get("tag"))
    if not isinstance(callback_url, str) or not callback_url.startswith(("http://", "https://")):
        raise BadRequest("without wait: true, callback must be a URL")
    return Start(account, callback_url, body.get("tag"))


def _read_body(request: Request) -> bytes:
    assert request.content is not None
    return request.content.read(MAX_BODY)


def _answer(request: Request | IRequest, content: Any, status: int = 200) -> bytes:
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(body))
    return body
