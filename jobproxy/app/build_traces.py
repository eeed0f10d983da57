"""Makes what sends traces to an OpenTelemetry collector."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.threads import deferToThread

from jobproxy import __version__
from jobproxy.app.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from jobproxy.monitoring.traces import Traces


def build_traces(settings: Settings, reactor: Any, now: Callable[[], float]) -> "Traces | None":
    """Return the service that sends the spans of jobs to a collector, if there is to be one."""
    if settings.traces is None:
        return None
    # OpenTelemetry is an optional dependency.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from jobproxy.monitoring.traces import Traces

    def begin() -> "tuple[Tracer, Callable[[], Any]]":
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES come first.
        named = Resource({SERVICE_NAME: "jobproxy"}).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=named, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.traces)))
        tracer = provider.get_tracer("jobproxy", __version__)
        # The last spans are sent by blocking calls.
        return tracer, lambda: deferToThread(provider.shutdown)

    return Traces(reactor, now, begin)
