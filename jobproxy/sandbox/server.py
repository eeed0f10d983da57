"""The simulator of the job server: its HTTP interface and its jobs."""

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

from jobproxy.http1 import client as http_client
from jobproxy.http1.client import JSON, PlainClient
from jobproxy.sandbox.faults import Faults
from jobproxy.sandbox.jobs import Job, JobFactory
from jobproxy.sandbox.network import Connection, connection_of
from jobproxy.sandbox.proofs import BadProof, unpack_proof
from jobproxy.sandbox.slots import Slots
from jobproxy.sandbox.starts import (
    MAX_BODY,
    BadRequest,
    ReceivedStart,
    Start,
    read_body,
    read_start,
)

_log = Logger()

#: Seconds for one callback.
CALLBACK_TIMEOUT = 30.0
#: Connections that are accepted before a port is closed; more than the listen backlog.
MAX_ACCEPTS = 10_000
#: Characters that are kept of the response to a callback.
MAX_NOTE = 200


@define
class Stats:
    """Counts since the simulator was started."""

    started: int = 0
    completed: int = 0
    failed: int = 0
    callbacks_sent: int = 0
    callbacks_accepted: int = 0
    #: Start requests with the callback URL of an earlier one that was not refused as busy.
    repeated_callback_urls: int = 0
    #: The maximum of start requests of one account that were served or queued at once.
    most_queued: int = 0
    faults: dict[str, int] = field(factory=dict)


@define(eq=False)
class Simulator:
    """A job server that behaves like the real one.

    :param duration: seconds that a job takes.
    :param jitter: seconds by which that varies, up and down.
    :param latency: seconds that a message takes through the network, each way.
    :param random: where jitter and faults come from.
    """

    app = Klein()

    _treq: PlainClient
    _clock: IReactorTime
    _job_factory: JobFactory
    _slots: Slots
    _random: random.Random = field(kw_only=True)
    _faults: Faults = field(factory=Faults, kw_only=True)
    _duration: float = field(default=0.5, kw_only=True)
    _jitter: float = field(default=0.0, kw_only=True)
    _latency: float = field(default=0.0, kw_only=True)
    stats: Stats = field(factory=Stats, init=False)
    #: The start requests that had faults.
    faulty_starts: list[Start] = field(factory=list, init=False, repr=False)
    _callback_urls: set[str] = field(factory=set, init=False, repr=False)
    #: The start requests of each account that are served or queued.
    queued: dict[str, int] = field(factory=dict, init=False, repr=False)

    def resource(self) -> KleinResource:
        return self.app.resource()

    @app.handle_errors(BadRequest, BadProof)
    def refuse(self, request: IRequest, failure: Failure) -> bytes:
        return _respond(request, {"error": str(failure.value)}, 400)

    @app.route("/start", methods=["POST"])
    async def start(self, request: Request) -> bytes:
        """Run a job; respond at its end, or respond at once and send a callback at its end."""
        received = read_start(request)
        connection = connection_of(request)
        self._count(received.account, 1)
        try:
            await self._slots.acquire(received.account, connection)
            try:
                start = self._begin(received)
                if "refused" in start.faults:
                    self._spawn(self._close_port(connection, start.faults["refused"].seconds))
                return await self._serve(request, start)
            finally:
                self._slots.release(received.account)
        finally:
            self._count(received.account, -1)

    @app.route("/stats", methods=["GET"])
    def get_stats(self, request: Request) -> bytes:
        return _respond(request, asdict(self.stats))

    @app.route("/faulty-starts", methods=["GET"])
    def get_faulty_starts(self, request: Request) -> bytes:
        """Respond with all start requests that had faults, and their callbacks."""
        return _respond(request, [start.describe() for start in self.faulty_starts])

    @app.route("/verify", methods=["POST"])
    def verify(self, request: Request) -> bytes:
        """Respond with the number of jobs in a proof, and of those that this simulator ran."""
        jobs = unpack_proof(read_body(request).decode("ascii", "replace"))
        genuine = {job for job in jobs if self._job_factory.is_genuine(job)}
        return _respond(request, {"jobs": len(jobs), "genuine": len(genuine)})

    def _begin(self, received: ReceivedStart) -> Start:
        """Draw the faults of a start request, which has its slot now."""
        start = Start(
            received.account,
            received.callback_url,
            received.tag,
            self._faults.draw(self._random),
            self._clock.seconds(),
        )
        for kind in start.faults:
            self.stats.faults[kind] = self.stats.faults.get(kind, 0) + 1
        if start.faults:
            self.faulty_starts.append(start)
        return start

    async def _serve(self, request: Request, start: Start) -> bytes:
        faults, connection = start.faults, connection_of(request)
        if "busy" in faults:
            request.setHeader(b"retry-after", b"%d" % math.ceil(faults["busy"].seconds))
            return _respond(request, {"error": "busy"}, 503)
        if start.callback_url in self._callback_urls:
            self.stats.repeated_callback_urls += 1
        if start.callback_url is not None:
            self._callback_urls.add(start.callback_url)
        if "error" in faults:
            return _respond(request, {"error": "internal error"}, 500)
        job = self._job_factory.make_job()
        self.stats.started += 1
        if start.callback_url is None:
            await self._pause(self._vary_duration())
            return _respond(request, self._end(job, start))
        if "early" in faults:
            await self._deliver(start, self._end(job, start))
        else:
            self._spawn(self._finish(job, start))
        if "reset" in faults:
            connection.abortConnection()
        if "slow" in faults:
            await self._pause(faults["slow"].seconds)
        if "garbage" in faults:
            return _respond(request, "<html>Not what you expect", 200)
        return _respond(request, job.ack())

    async def _close_port(self, connection: Connection, seconds: float) -> None:
        """Close the port of a connection for some time."""
        port = cast(Any, connection.transport).server
        if not port.connected:
            return
        # Connections that the kernel has accepted already would be reset, not refused.
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
        # Each callback needs a new connection: one round trip, and its request one latency more.
        await self._pause(3 * self._latency)
        self.stats.callbacks_sent += 1
        sent = round(self._clock.seconds() - start.begun, 3)
        assert start.callback_url is not None
        try:
            sending = Deferred.fromCoroutine(self._send(start.callback_url, result))
            status, response = await sending.addTimeout(CALLBACK_TIMEOUT, self._clock)
        except Exception as error:  # any failure is one of the receiver, not of the simulator
            _log.warn("a callback was not delivered: {error!r}", error=error)
            return
        start.delivered.append((sent, status, response.decode("utf-8", "replace")[:MAX_NOTE]))
        if status == 200:
            self.stats.callbacks_accepted += 1

    async def _send(self, url: str, result: dict[str, Any]) -> tuple[int, bytes]:
        body = json.dumps(result, separators=(",", ":")).encode()
        response = await self._treq.request("POST", url, headers=JSON, data=body)
        return response.code, await http_client.read_body(response, MAX_BODY)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background, and log its failure."""
        working = Deferred.fromCoroutine(work)
        working.addErrback(lambda failure: _log.failure("the simulator crashed", failure))

    def _vary_duration(self) -> float:
        return max(0.0, self._duration + self._random.uniform(-self._jitter, self._jitter))

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await deferLater(self._clock, seconds)

    def _count(self, account: str, change: int) -> None:
        queued = self.queued.get(account, 0) + change
        self.queued[account] = queued
        self.stats.most_queued = max(self.stats.most_queued, queued)
        if not queued:
            del self.queued[account]


def _respond(request: Request | IRequest, content: Any, status: int = 200) -> bytes:
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(body))
    return body
