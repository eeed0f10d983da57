"""Callbacks, and what the operator and other clients find after them."""

from collections.abc import Sequence
from typing import Any

from twisted.logger import LogEvent, formatEvent

from jobproxy.app.settings import CorrelateBy
from tests.support.clients import Client, Response
from tests.support.job_server import Start
from tests.support.proxy import ProxyTestCase

RETAIN = 300


def read_log(events: Sequence[LogEvent]) -> str:
    """Return what was logged."""
    return "\n".join(formatEvent(event) for event in events)


class CallbackTestCase(ProxyTestCase):
    """A proxy whose callback URLs have a token."""

    def run_job(self, upstream_id: str = "1") -> tuple[Client, Start]:
        """Return a held client and the start of its job, which runs."""
        client = self.submit()
        start = self.starts[-1]
        start.ack(upstream_id)
        return client, start

    def check_receipt(self, response: Response, status: str) -> None:
        """Check the response to a callback that was accepted."""
        self.assertEqual((response.status, response.json), (200, {"status": status}))

    def poll(self, start: Start) -> Response:
        """Poll for a job without a wait."""
        return self.connect().get(start.job_path).response

    def list_orphans(self) -> list[str]:
        """Return the upstream ids of the orphans."""
        response = self.operate().get("/orphans").response
        return [orphan["id"] for orphan in response.json["orphans"]]


class ByIdTestCase(ProxyTestCase):
    """A proxy that finds the job of a callback by its upstream id."""

    settings: dict[str, Any] = {"correlate_by": CorrelateBy.ID}

    def call_back_by_id(self, body: bytes) -> Response:
        """Send a callback as the job server, and return the response."""
        return self.connect().request("/callback", body).response
