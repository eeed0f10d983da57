"""OpenTelemetry traces: the spans of jobs."""

from typing import Any

from attrs import evolve
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from jobproxy.app.environment import Environment
from jobproxy.monitoring.traces import Traces
from tests.support.proxy import EPOCH, ProxyTestCase, result_of

TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class TraceTests(ProxyTestCase):
    def make_environment(self, reactor: Any) -> Environment:
        environment = super().make_environment(reactor)
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.traces = Traces(
            self.clock, environment.now, lambda: (provider.get_tracer("test"), provider.shutdown)
        )
        self.traces.startService()
        return evolve(environment, job_ended=self.traces.trace)

    def tearDown(self) -> None:
        super().tearDown()
        self.successResultOf(self.traces.stopService())

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def times(self, name: str) -> tuple[float, float]:
        """Return when a span began and ended, in seconds since the start of the test."""
        span = self.spans[name]
        return (span.start_time or 0) / 1e9 - EPOCH, (span.end_time or 0) / 1e9 - EPOCH

    def test_spans_are_the_phases_of_the_job_in_the_trace_of_the_client(self) -> None:
        """Queue, start and run are the parts of the job, which belongs to the client's span."""
        trace = {"traceparent": f"00-{TRACE_ID}-{PARENT}-01", "X-Request-Id": "mine"}
        client = self.connect().request(headers=trace)
        self.clock.advance(1)
        self.starts[0].respond(b"", 503, Retry_After="2")
        self.clock.advance(2)
        self.clock.advance(1)
        self.starts[1].ack("7")
        self.clock.advance(4)
        self.call_back(self.starts[1], result_of("7"))
        self.assertEqual(client.response.status, 200)
        spans = self.spans
        self.assertEqual(set(spans), {"job", "queue", "start", "run"})
        job: Any = spans["job"]
        self.assertEqual(f"{job.context.trace_id:032x}", TRACE_ID)
        self.assertEqual(f"{job.parent.span_id:016x}", PARENT)
        for name in ("queue", "start", "run"):
            child: Any = spans[name]
            self.assertEqual(child.parent.span_id, job.context.span_id)
        times = {name: self.times(name) for name in spans}
        self.assertEqual(
            {name: tuple(round(each, 3) for each in pair) for name, pair in times.items()},
            {"job": (0, 8), "queue": (0, 0), "start": (0, 4), "run": (4, 8)},
        )
        self.assertEqual(
            [event.name for event in spans["start"].events], ["start request failed: busy"]
        )
        self.assertEqual(job.attributes["jobproxy.upstream_id"], "7")
        self.assertEqual(job.attributes["jobproxy.request_id"], "mine")
        self.assertNotIn("example", str(job.attributes))

    def test_failure_has_the_status_of_an_error(self) -> None:
        """A job that was refused has an error, and did not run."""
        self.submit()
        self.starts[0].respond(b"no", 402)
        job = self.spans["job"]
        self.assertEqual((job.status.is_ok, job.status.description), (False, "upstream-rejected"))
        self.assertEqual(set(self.spans), {"job", "queue", "start"})
        self.assertIsNone(job.parent)

    def test_late_result_is_a_span_of_its_own(self) -> None:
        """A job that has failed has its spans already; its result can still come."""
        self.submit()
        self.starts[0].respond(b"no", 402)
        self.assertEqual(set(self.spans), {"job", "queue", "start"})
        self.exporter.clear()
        self.clock.advance(1)
        self.call_back(self.starts[0], result_of("1"))
        self.assertEqual(set(self.spans), {"late result"})
        self.assertEqual(self.times("late result"), (1.0, 1.0))
