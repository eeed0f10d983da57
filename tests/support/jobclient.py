"""Jobs, results and reports of jobclient, and a server that holds its requests."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from attrs import define, field
from klein import Klein
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.web.http import Request

from jobproxy.sandbox.jobs import Job
from jobproxy.sandbox.load_report import Ending
from jobproxy.sandbox.reports import Report

PROOF = "078DC91F2980650231E94E67777078D5C926B9A3"


def make_job(number: int) -> Job:
    return Job(f"{number:x}", "2015-06-29T15:34:16.850Z", PROOF)


def result_of(number: int, **changes: Any) -> bytes:
    """Return the result of a job, with some members changed."""
    return json.dumps({**make_job(number).result("completed"), **changes}).encode()


@define(eq=False)
class Waiting:
    """A request that reached the server."""

    raw: bytes
    request: Request = field(repr=False)
    response_body: Deferred[bytes] = field(factory=Deferred, init=False, repr=False)


class FakeServer:
    """Holds requests until the test responds."""

    app = Klein()

    def __init__(self) -> None:
        self.jobs: list[Waiting] = []
        self.agent = RequestTraversalAgent(self.app.resource())

    @app.route("/start", methods=["POST"])
    def start(self, request: Request) -> Deferred[bytes]:
        assert request.content is not None
        job = Waiting(request.content.read(), request)
        self.jobs.append(job)
        return job.response_body

    def respond(self, number: int, body: bytes | None = None, status: int = 200) -> None:
        """Respond to a request, by default with the result of its job."""
        job = self.jobs[number]
        job.request.setResponseCode(status)
        job.response_body.callback(result_of(number) if body is None else body)
        self.agent.flush()


def make_report(
    durations: Sequence[float],
    errors: dict[str, int] | None = None,
    total: float = 1.4,
    limit: float = 5.0,
) -> Report:
    jobs = [make_job(number) for number in range(len(durations))]
    return Report(durations, jobs, Counter(errors or {}), Ending(total, limit))
