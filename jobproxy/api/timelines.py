"""The operator's route to the timeline of a job."""

from collections.abc import Callable
from typing import ClassVar

from attrs import define
from klein import Klein
from twisted.internet.interfaces import IReactorTime

from jobproxy.api.responses import respond_json
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.record import JobRecord
from jobproxy.monitoring.timelines import describe_timeline
from jobproxy.wire.problems import Kind, Problem, ProblemError
from jobproxy.wire.tokens import is_job_id

_NO_SUCH_NAME = Problem(
    Kind.JOB_UNKNOWN,
    "No job that is known here has this request id or id of the job server.",
    started="unknown",
)


@define(eq=False)
class TimelineRoutes:
    """Serves the timeline of a job, which is found by any of its names.

    :param now: returns Unix time in seconds.
    """

    side: ClassVar = "admin"
    _gateway: Gateway
    _clock: IReactorTime
    _now: Callable[[], float]

    def add_to(self, app: Klein) -> None:
        app.route("/timelines/<name>", methods=["GET"])(self.get_timeline)

    async def get_timeline(self, request: Request, name: str) -> bytes:
        """Respond with what has become of a job.

        :param name: its job id, or the newest job's request id or id of the job server.
        """
        record = await self._find(name)
        return respond_json(request, describe_timeline(record, self._clock.seconds(), self._now()))

    async def _find(self, name: str) -> JobRecord:
        if is_job_id(name):
            return await self._gateway.look_up(name)
        request_id = name.encode()
        found = self._gateway.table.search(
            lambda each: each.upstream_id == name or each.origin.request_id == request_id
        )
        if found is None:
            raise ProblemError(_NO_SUCH_NAME)
        return found
