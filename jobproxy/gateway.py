"""A job's way: admitted, started when its lane has a place, waited for, answered."""

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from jobproxy.correlation import CorrelationTable, Delivery, State
from jobproxy.lanes import Lanes
from jobproxy.messages import Job, Report, parse_report
from jobproxy.problems import Internal, NotFound, Overloaded, Problem
from jobproxy.tokens import Token, TokenSigner
from jobproxy.upstream import AmbiguousStart, JobServer

_log = Logger()


@define(eq=False)
class Gateway:
    """Turns one held request into one start call and one callback.

    :param callback_url: the public base of callback URLs, without a slash at its end.
    :param wait: seconds a client is held at most.
    :param ambiguous_grace: seconds a callback is still waited for when the start call's outcome
        is not known.
    :param max_held: clients held at once.
    """

    _table: CorrelationTable
    _lanes: Lanes
    _job_server: JobServer
    _signer: TokenSigner
    _callback_url: str
    _wait: float = field(kw_only=True)
    _ambiguous_grace: float = field(kw_only=True)
    _max_held: int = field(kw_only=True)

    def submit(self, job: Job) -> Deferred[Report]:
        """Have a job done.

        :return: fires with the job's result, or fails with a :class:`Problem` that tells whether
            it was started. Cancel it when the client has left: a job that is still queued is
            then not started, and one that has been started goes on.
        :raises Overloaded: if no more clients can be held.
        :raises AccountQueueFull: if too many jobs of the account wait.
        """
        if self._table.held >= self._max_held:
            raise Overloaded(
                f"{self._max_held} clients are held already; try again when some are done.",
                retry_after=1,
            )
        place = self._lanes.enter(job.account)
        token = self._signer.mint()
        answer = self._table.expect(token.handle, self._wait, place.cancel)
        started = Deferred.fromCoroutine(self._start(job, token, place))
        started.addErrback(self._crash, token.handle)
        return answer

    def recognize(self, token: str) -> str:
        """Return the handle of the job that a callback's URL names.

        To be called before anything else of the callback is looked at.

        :param token: what the URL ends with; nothing is assumed of it.
        :raises NotFound: if it is not one of our tokens, just as for a path that does not exist.
        """
        handle = self._signer.verify(token)
        if handle is None:
            raise NotFound
        return handle

    def deliver(self, handle: str, body: bytes) -> Delivery:
        """Take the callback of a recognized job.

        :raises InvalidJson: if the body is not a JSON object; the job goes on.
        :raises CallbackConflict: if it is about another job; the job goes on.
        """
        return self._table.complete(handle, parse_report(body))

    async def _start(self, job: Job, token: Token, place: Deferred[None]) -> None:
        try:
            await place
        except CancelledError:
            return
        handle = token.handle
        try:
            self._table.advance(handle, State.STARTING)
            body = job.to_start(f"{self._callback_url}/{token.text}")
            ack = await self._job_server.start(job.account, body)
        except AmbiguousStart as error:
            _log.warn("start of job {job} is ambiguous: {error}", job=handle, error=error)
            self._table.advance(handle, State.UNCONFIRMED)
            self._table.shorten(handle, self._ambiguous_grace)
        except Problem as problem:
            _log.warn("start of job {job} failed: {slug}", job=handle, slug=problem.slug)
            self._table.fail(handle, problem)
        else:
            self._table.advance(handle, State.RUNNING, ack.job_id)
            if ack.is_ended:
                self._table.complete(handle, ack)
        finally:
            self._lanes.leave(job.account)

    def _crash(self, failure: Failure, handle: str) -> None:
        _log.failure("start of job {job} crashed", failure, job=handle)
        problem = Internal("The proxy failed while it started the job.")
        problem.started = "unknown"
        self._table.fail(handle, problem)
