"""The simulator of a profile's API: what it does with each request, and its jobs."""

import json
import math
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from jobproxy.http1.client import PlainClient
from jobproxy.profiles.messages import Message
from jobproxy.sandbox.faults import Fault, Faults, read_faults
from jobproxy.sandbox.network import Connection
from jobproxy.sandbox.profile_callbacks import CallbackSender
from jobproxy.sandbox.profile_drafts import Draft, write
from jobproxy.sandbox.profile_file import ProfileFile
from jobproxy.sandbox.profile_jobs import SimulatedJob
from jobproxy.sandbox.profile_messages import MessageMaker, NotSimulated, read_name
from jobproxy.sandbox.profile_starts import StartFinder

_log = Logger()

#: Failed attempts to fetch a result, of the fault ``unready``.
UNREADY = 2
#: The statuses of starts that are refused, by fault.
_REFUSALS = {"unpaid": 402, "limited": 429, "busy": 503, "error": 500}


@frozen
class Call:
    """A request to the simulator.

    :param target: the path and the query, as they came.
    :param base: the URL that the caller has reached the simulator at, without a path.
    """

    message: Message
    target: str
    base: str
    connection: Connection | None = field(default=None, repr=False)


@frozen
class Reply:
    """A response."""

    status: int
    body: bytes = field(default=b"", repr=False)
    headers: dict[str, str] = field(factory=dict)


@define(eq=False)
class ProfileServer:
    """A job server whose API is that of a profile.

    :param webhook: where callbacks go if start requests do not say it.
    :param duration: seconds that a job takes.
    :param now: returns Unix time in seconds.
    :ivar jobs: all start requests, the oldest first.
    """

    _client: PlainClient
    _clock: IReactorTime
    _random: random.Random
    _file: ProfileFile
    _now: Callable[[], float]
    _webhook: str | None = field(default=None, kw_only=True)
    _faults: Faults = field(factory=Faults, kw_only=True)
    _duration: float = field(default=0.5, kw_only=True)
    jobs: list[SimulatedJob] = field(factory=list, init=False)
    #: The faults of the next start requests, which are not drawn then.
    _planned: deque[Faults] = field(factory=deque, init=False)
    #: What requests are about, by method and target.
    _known: dict[tuple[str, str], tuple[str, SimulatedJob]] = field(factory=dict, init=False)
    _maker: MessageMaker = field(init=False)
    _finder: StartFinder = field(init=False)
    _sender: CallbackSender = field(init=False)

    def __attrs_post_init__(self) -> None:
        profile = self._file.profile
        self._maker, self._finder = MessageMaker(self._file), StartFinder(profile)
        self._sender = CallbackSender(self._client, self._clock, profile, self._now)

    async def serve(self, call: Call) -> Reply:
        """Return the response to a request."""
        path = call.target.partition("?")[0]
        if path in ("/simulator/jobs", "/simulator/profile", "/simulator/faults"):
            return self._control(call, path)
        found = self._known.get((call.message.method, call.target))
        if found is not None:
            return self._follow_up(call, *found)
        if not self._finder.matches(call.target):
            return _refuse(404, "there is nothing here")
        if call.message.method != self._file.profile.start.method:
            return _refuse(405, "this is not the method of start requests")
        return await self._start(call)

    def _control(self, call: Call, path: str) -> Reply:
        """Serve who watches or directs the simulator."""
        if path == "/simulator/jobs":
            return _reply_json([job.describe() for job in self.jobs])
        if path == "/simulator/profile":
            return Reply(200, self._file.point_at(call.base).encode())
        try:
            self._planned.append(read_faults(call.message.text))
        except ValueError as error:
            return _refuse(400, f"the list of faults {error}")
        return _reply_json({"planned": len(self._planned)})

    async def _start(self, call: Call) -> Reply:
        try:
            found = self._finder.find(call.message, call.target)
        except ValueError as error:
            return _refuse(400, f"the request is not one of this profile: {error}")
        urls = (self._webhook,) if self._webhook is not None else found.callback_urls
        if self._finder.names_callback and not urls:
            return _refuse(400, "there is no callback URL")
        faults = self._planned.popleft() if self._planned else self._faults
        job = SimulatedJob(
            f"{self._random.getrandbits(64):016x}",
            faults.draw(self._random),
            call.base,
            found.request,
            urls,
        )
        self.jobs.append(job)
        for kind, status in _REFUSALS.items():
            if kind in job.faults:
                job.state = "refused"
                return _refuse(status, kind, job.faults[kind].seconds)
        return await self._begin(job, call.connection)

    async def _begin(self, job: SimulatedJob, connection: Connection | None) -> Reply:
        draft = self._maker.make_ack(job.job_id, job.base)
        job.ack = draft.to_message()
        job.named = read_name(self._file.profile, job.scope())
        self._expect(job)
        if "early" in job.faults:
            await self._end(job, self._outcome_of(job))
        else:
            self._spawn(self._run(job))
        if "reset" in job.faults and connection is not None:
            connection.abortConnection()
        if "slow" in job.faults:
            await self._pause(job.faults["slow"].seconds)
        if "garbage" in job.faults:
            return Reply(200, b"<html>Not what you expect", {"Content-Type": "text/html"})
        return _reply(draft)

    def _expect(self, job: SimulatedJob) -> None:
        """Note the requests about a job that the profile can make of its messages."""
        profile = self._file.profile
        callback = self._maker.make_callback(job.job_id, job.named, job.base, "succeeded")
        templates = [("GET", "result", profile.callback.url, callback)]
        if profile.poll is not None:
            polled = self._maker.make_poll(job.job_id, job.base, "succeeded")
            templates.append(("GET", "result", profile.poll.reads.url, polled))
            # A URL for both is a poll, which brings the result, too.
            templates.append((profile.poll.method, "poll", profile.poll.url, polled))
        if profile.cancel is not None:
            templates.append((profile.cancel.method, "cancel", profile.cancel.url, callback))
        for method, purpose, template, draft in templates:
            url = template and template.render_url(job.scope(draft.to_message()))
            if url:
                target = "/" + url.partition("://")[2].partition("/")[2]
                self._known[method, target] = (purpose, job)

    def _follow_up(self, call: Call, purpose: str, job: SimulatedJob) -> Reply:
        """Respond to a request about a job, which needs the credentials of its start."""
        for name in self._file.profile.start.forward:
            if call.message.find_header(name) != job.request.find_header(name):
                return _refuse(401, f"{name} is not that of the start request")
        if purpose == "poll":
            job.polls += 1
            # The first poll never finds the end: so there is progress, however slow all is.
            state = "progress" if job.polls == 1 else job.state
            return _reply(self._maker.make_poll(job.job_id, job.base, state))
        if purpose == "result":
            return self._give_result(job)
        if job.is_running:
            self._spawn(self._end(job, "cancelled"))
        return _reply_json({})

    def _give_result(self, job: SimulatedJob) -> Reply:
        job.fetches += 1
        if job.is_running:
            return _refuse(409, "the job has not ended")
        if "unready" in job.faults and job.fetches <= UNREADY:
            return _refuse(500, "unready")
        return _reply(self._maker.make_result(job.job_id, job.state))

    async def _run(self, job: SimulatedJob) -> None:
        await self._pause(self._duration / 2)
        if self._maker.callback_words.progress and self._file.profile.callback.state:
            await self._call_back(job, "progress")
        late = job.faults.get("late", Fault(0))
        await self._pause(self._duration / 2 + late.seconds)
        await self._end(job, self._outcome_of(job))

    def _outcome_of(self, job: SimulatedJob) -> str:
        is_failed = "failed" in job.faults and self._maker.callback_words.failed
        return "failed" if is_failed else "succeeded"

    async def _end(self, job: SimulatedJob, state: str) -> None:
        if not job.is_running:
            return
        job.state = state
        for _ in range(2 if "duplicate" in job.faults else 1):
            await self._call_back(job, state)

    async def _call_back(self, job: SimulatedJob, state: str) -> None:
        if not job.callback_urls or "drop" in job.faults:
            return
        draft = self._maker.make_callback(job.job_id, job.named, job.base, state)
        is_forged = "forged" in job.faults and self._file.profile.verifier and state != "progress"
        if is_forged:
            await self._sender.send(job, draft, state, is_forged=True)
        await self._sender.send(job, draft, state)

    async def _pause(self, seconds: float) -> None:
        if seconds > 0:
            await deferLater(self._clock, seconds)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in the background, and log its failure."""
        working = Deferred.fromCoroutine(work)
        working.addErrback(lambda failure: _log.failure("the simulator crashed", failure))


def check_simulated(file: ProfileFile, webhook: str | None) -> None:
    """Check that a profile can be simulated.

    :raises NotSimulated: if not.
    """
    profile = file.profile
    MessageMaker(file).make_ack("0", "http://simulator.example")
    if profile.correlates_by_id and webhook is None:
        raise NotSimulated('correlate-by = "id" needs --webhook, the URL of all callbacks')
    if not (webhook or StartFinder(profile).names_callback or profile.poll):
        raise NotSimulated("there is neither a callback URL in start.set nor a poll.url")


def _reply(draft: Draft) -> Reply:
    return Reply(draft.status, draft.body, draft.all_headers)


def _reply_json(content: Any, status: int = 200) -> Reply:
    return Reply(status, write(content).encode(), {"Content-Type": "application/json"})


def _refuse(status: int, reason: str, retry_after: float = 0.0) -> Reply:
    body = json.dumps({"error": reason}).encode()
    headers = {"Content-Type": "application/json"}
    if status in (429, 503):
        headers["Retry-After"] = str(math.ceil(retry_after))
    return Reply(status, body, headers)
