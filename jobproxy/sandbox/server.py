"""The simulator of the job server: its HTTP interface, and the running of its jobs."""

import json
import random
from typing import Any

from attrs import asdict, define, field
from klein import Klein
from klein.resource import KleinResource
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.iweb import IRequest

from jobproxy.client import collect_body, post_json
from jobproxy.sandbox.faults import Fault, Faults
from jobproxy.sandbox.jobs import Job, Workshop
from jobproxy.sandbox.network import connection_of
from jobproxy.sandbox.proofs import BadProof, unpack_proof
from jobproxy.sandbox.slots import Slots

_log = Logger()

MAX_BODY = 50_000_000
CALLBACK_TIMEOUT = 30.0

Drawn = dict[str, Fault]


class BadRequest(Exception):
    """The request is not one that the job server takes."""


@define
class Stats:
    """What happened since the simulator was started."""

    started: int = 0
    completed: int = 0
    failed: int = 0
    callbacks_sent: int = 0
    callbacks_accepted: int = 0
    #: Starts with a callback URL that an earlier start had already.
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

    _treq: HTTPClient
    _clock: IReactorTime
    _workshop: Workshop
    _slots: Slots
    _random: random.Random = field(kw_only=True)
    _faults: Faults = field(factory=Faults, kw_only=True)
    _duration: float = field(default=0.5, kw_only=True)
    _jitter: float = field(default=0.0, kw_only=True)
    _latency: float = field(default=0.0, kw_only=True)
    stats: Stats = field(factory=Stats, init=False)
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
        account, callback_url = _read_start(request)
        self._count(account, 1)
        try:
            await self._slots.acquire(account, connection_of(request))
            try:
                faults = self._faults.draw(self._random)
                for kind in faults:
                    self.stats.faults[kind] = self.stats.faults.get(kind, 0) + 1
                return await self._serve(request, callback_url, faults)
            finally:
                self._slots.release(account)
        finally:
            self._count(account, -1)

    @app.route("/stats", methods=["GET"])
    def show_stats(self, request: Request) -> bytes:
        return _answer(request, asdict(self.stats))

    @app.route("/verify", methods=["POST"])
    def verify(self, request: Request) -> bytes:
        """Say how many of the jobs of a proof were really run here; none counts twice."""
        jobs = unpack_proof(_read_body(request).decode("ascii", "replace"))
        genuine = {job for job in jobs if self._workshop.is_genuine(job)}
        return _answer(request, {"jobs": len(jobs), "genuine": len(genuine)})

    async def _serve(self, request: Request, callback_url: str | None, faults: Drawn) -> bytes:
        if "busy" in faults:
            request.setHeader(b"retry-after", b"1")
            return _answer(request, {"error": "busy"}, 503)
        if "error" in faults:
            return _answer(request, {"error": "something went wrong"}, 500)
        job = self._workshop.start()
        self.stats.started += 1
        if callback_url is None:
            await self._pause(self._vary_duration())
            return _answer(request, self._end(job, faults))
        if callback_url in self._callback_urls:
            self.stats.repeated_callback_urls += 1
        self._callback_urls.add(callback_url)
        connection = connection_of(request)
        if "early" in faults:
            await self._deliver(callback_url, self._end(job, faults), faults)
        else:
            finishing = Deferred.fromCoroutine(self._finish(job, callback_url, faults))
            finishing.addErrback(lambda failure: _log.failure("a job crashed", failure))
        if "reset" in faults:
            connection.abortConnection()
        if "slow" in faults:
            await self._pause(faults["slow"].seconds)
        if "garbage" in faults:
            return _answer(request, "<html>Not what you expect", 200)
        return _answer(request, job.ack())

    async def _finish(self, job: Job, callback_url: str, faults: Drawn) -> None:
        await self._pause(self._vary_duration())
        result = self._end(job, faults)
        if "late" in faults:
            await self._pause(faults["late"].seconds)
        await self._deliver(callback_url, result, faults)

    async def _deliver(self, url: str, result: dict[str, str], faults: Drawn) -> None:
        if "drop" in faults:
            return
        await self._call_back(url, result)
        if "duplicate" in faults:
            await self._call_back(url, result)

    def _end(self, job: Job, faults: Drawn) -> dict[str, str]:
        state = "failed" if "failed" in faults else "completed"
        if state == "failed":
            self.stats.failed += 1
        else:
            self.stats.completed += 1
        return job.result(state)

    async def _call_back(self, url: str, result: dict[str, str]) -> None:
        # A connection of its own has to be made for each callback: there, back and there again.
        await self._pause(3 * self._latency)
        self.stats.callbacks_sent += 1
        try:
            sending = Deferred.fromCoroutine(self._send(url, result))
            status = await sending.addTimeout(CALLBACK_TIMEOUT, self._clock)
        except Exception as error:  # whatever it is, it is the callback's receiver that has it
            _log.warn("a callback was not delivered: {error!r}", error=error)
            return
        if status == 200:
            self.stats.callbacks_accepted += 1

    async def _send(self, url: str, result: dict[str, str]) -> int:
        body = json.dumps(result, separators=(",", ":")).encode()
        response = await post_json(self._treq, self._clock, url, body)
        await collect_body(response, MAX_BODY)
        return response.code

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


def _read_start(request: Request) -> tuple[str, str | None]:
    """Return the account of a start, and the callback URL unless it waits."""
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
        return account, None
    if not isinstance(callback_url, str) or not callback_url.startswith(("http://", "https://")):
        raise BadRequest("without wait: true, callback must be a URL")
    return account, callback_url


def _read_body(request: Request) -> bytes:
    assert request.content is not None
    return request.content.read(MAX_BODY)


def _answer(request: Request | IRequest, content: Any, status: int = 200) -> bytes:
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    request.setHeader(b"content-length", b"%d" % len(body))
    return body
