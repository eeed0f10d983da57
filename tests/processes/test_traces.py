"""Traces, as a collector gets them."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.socket_client import result_of
from tests.support.stage import run_stage
from tests.support.waiting import wait_for_exit


@contextmanager
def run_collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Run a collector of OTLP over HTTP; yield its URL, and what it has got."""
    got: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Write nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/traces", got
        finally:
            server.shutdown()
            thread.join()


def test_a_collector_gets_the_spans_of_all_jobs() -> None:
    """All spans are there once the process has ended, those of the last job too."""
    with run_collector() as (url, got), run_stage(traces=url) as stage:
        clients = stage.hold(1, 2)
        for number in (1, 2):
            stage.call_back(number)
        assert [client.receive().body for client in clients] == [result_of(1), result_of(2)]
        stage.proxy.process.terminate()
        wait_for_exit(stage.proxy.process)
        resources = [each for request in got for each in request.resource_spans]
        names = [
            span.name for each in resources for scope in each.scope_spans for span in scope.spans
        ]
        assert sorted(names) == sorted(2 * ["job", "queue", "start", "run"])
        attributes = {
            each.key: each.value.string_value for each in resources[0].resource.attributes
        }
        assert attributes["service.name"] == "jobproxy"
