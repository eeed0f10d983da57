"""The operator's route to the timeline of a job."""

import json
from collections.abc import Callable
from typing import ClassVar

from attrs import define
from klein import Klein
from twisted.internet.interfaces import IReactorTime

from jobproxy.api.responses import respond
from jobproxy.gateway import Gateway
from jobproxy.http1.request import Request
from jobproxy.jobs.record import JobRecord
from jobproxy.monitoring.timelines import describe_timeline
from jobproxy.wire.problems import Kind, Problem, ProblemError, job_unknown
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
        described = describe_timeline(record, self._clock.seconds(), self._now())
        return respond(request, json.dumps(described).encode())

    async def _find(self, name: str) -> JobRecord:
        table = self._gateway.table
        if is_job_id(name):
            # The store may know more of it than this process.
            locating = self._gateway.coordinator.locate(name)
            found = table.find(name) if locating is None else await locating
        else:
            request_id = name.encode()
            found = table.search(
                lambda each: each.upstream_id == name or each.origin.request_id == request_id
            )
        if found is None:
            raise job_unknown(name) if is_job_id(name) else ProblemError(_NO_SUCH_NAME)
        return found
