"""Every metric, span and label name of the mesh, and where they go.

Metrics are Prometheus' (scraped from ``metrics_port``); spans are OpenTelemetry's, exported
over OTLP where ``otlp_endpoint`` is set. The trace context (W3C Trace Context) is kept and
handed on either way, so that logs of all services share a trace id; only a sampled call pays
for a span. Labels are bounded: methods come from the descriptors, codes from gRPC.
"""

from __future__ import annotations

import contextlib
import random
import re
import secrets
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVER_SECONDS: Final = "lepton_server_call_seconds"
SERVER_IN_FLIGHT: Final = "lepton_server_calls_in_flight"
CLIENT_SECONDS: Final = "lepton_client_call_seconds"
CERTIFICATE_EXPIRY: Final = "lepton_certificate_expiry_timestamp_seconds"
CERTIFICATE_FAILURES: Final = "lepton_certificate_renewal_failures_total"
DENYLIST_FETCHED: Final = "lepton_denylist_fetched_timestamp_seconds"

METHOD: Final = "method"
CODE: Final = "code"
SERVICE: Final = "service"

SPAN_METHOD: Final = "rpc.method"
SPAN_CODE: Final = "rpc.response.status_code"
SPAN_PEER: Final = "lepton.peer"

TRACEPARENT: Final = "traceparent"

SECONDS_BUCKETS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    60,
)

# W3C Trace Context section 3.2; later versions may append fields.
_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class Telemetry:
    """One process' metrics and spans.

    Args:
        service: The service's name, an attribute of every span.
        instance: The instance's name, likewise.
        otlp_endpoint: OTLP/gRPC URL; "" exports no spans.
        sample_ratio: Share of the traces begun here that are recorded.
    """

    def __init__(
        self,
        service: str,
        instance: str = "",
        *,
        otlp_endpoint: str = "",
        sample_ratio: float = 0.01,
    ) -> None:
        self.registry = CollectorRegistry()
        """Where a service registers metrics of its own."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.server_seconds = Histogram(
            SERVER_SECONDS,
            "Duration of calls served.",
            (METHOD, CODE),
            registry=self.registry,
            buckets=SECONDS_BUCKETS,
        )
        self.server_in_flight = Gauge(
            SERVER_IN_FLIGHT, "Calls being served.", (METHOD,), registry=self.registry
        )
        self.client_seconds = Histogram(
            CLIENT_SECONDS,
            "Duration of calls made.",
            (SERVICE, METHOD, CODE),
            registry=self.registry,
            buckets=SECONDS_BUCKETS,
        )
        self.certificate_expiry = Gauge(
            CERTIFICATE_EXPIRY, "When this process' certificate ends.", registry=self.registry
        )
        self.denylist_fetched = Gauge(
            DENYLIST_FETCHED,
            "When auth last gave the list of revoked certificates; 0 for never.",
            registry=self.registry,
        )
        self.certificate_failures = Counter(
            CERTIFICATE_FAILURES, "Renewals that failed.", registry=self.registry
        )
        self._sample_ratio = sample_ratio if otlp_endpoint else 0.0
        self._provider = _provider(service, instance, otlp_endpoint) if otlp_endpoint else None
        self._tracer = self._provider.get_tracer("lepton_mesh") if self._provider else None
        self._http: Any = None
        self._http_thread: threading.Thread | None = None

    @property
    def exports(self) -> bool:
        """Whether spans go anywhere."""
        return self._tracer is not None

    def serve_metrics(self, host: str, port: int) -> str:
        """Serves ``/metrics`` over plain HTTP; returns its ``host:port``."""
        self._http, self._http_thread = start_http_server(port, host, self.registry)
        return f"{host}:{self._http.server_port}"

    @contextlib.contextmanager
    def span(
        self,
        name: str,
        *,
        parent: trace.SpanContext | None = None,
        kind: trace.SpanKind = trace.SpanKind.INTERNAL,
        attributes: Mapping[str, str | int | float | bool] | None = None,
        sampled: bool | None = None,
    ) -> Iterator[trace.Span]:
        """A span that is current inside; below ``parent``, else the current one, else a new trace.

        It is recorded if ``sampled``, else as the trace says that it belongs to, else by chance.
        Where the trace is not sampled it carries the identifiers only and costs microseconds.
        An exception inside is the caller's to record: nothing of it goes into the span.
        """
        above = parent if parent is not None else trace.get_current_span().get_span_context()
        if sampled is None:
            sampled = (
                bool(above.trace_flags & trace.TraceFlags.SAMPLED)
                if above.is_valid
                else random.random() < self._sample_ratio  # noqa: S311  a share, not a secret
            )
        if sampled and self._tracer is not None:
            upper = trace.set_span_in_context(trace.NonRecordingSpan(above))
            span = self._tracer.start_span(name, context=upper, kind=kind, attributes=attributes)
        else:
            span = trace.NonRecordingSpan(
                trace.SpanContext(
                    trace_id=above.trace_id if above.is_valid else secrets.randbits(128) | 1,
                    span_id=secrets.randbits(64) | 1,
                    is_remote=False,
                    trace_flags=trace.TraceFlags(1 if sampled else 0),
                )
            )
        token = otel_context.attach(trace.set_span_in_context(span))
        try:
            yield span
        finally:
            otel_context.detach(token)
            span.end()

    def close(self) -> None:
        """Stops the endpoint and sends the spans that wait. Blocks for seconds at most."""
        if self._http is not None:
            self._http.shutdown()
            self._http.server_close()
            self._http = None
        if self._provider is not None:
            self._provider.shutdown()


def parse_traceparent(value: str | bytes | None) -> trace.SpanContext | None:
    """The remote span of a ``traceparent`` header; None if there is none, or it is malformed."""
    if not isinstance(value, str):
        return None
    match = _TRACEPARENT.fullmatch(value)
    if match is None or match[1] == "ff" or (match[1] == "00" and match[5]):
        return None
    found = trace.SpanContext(
        trace_id=int(match[2], 16),
        span_id=int(match[3], 16),
        is_remote=True,
        trace_flags=trace.TraceFlags(int(match[4], 16) & trace.TraceFlags.SAMPLED),
    )
    return found if found.is_valid else None


def format_traceparent(span: trace.SpanContext) -> str:
    """The header that hands ``span`` on."""
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


def current_trace_id() -> str:
    """The current trace id, 32 hex digits; "" where there is no trace."""
    span = trace.get_current_span().get_span_context()
    return f"{span.trace_id:032x}" if span.is_valid else ""


def _provider(service: str, instance: str, endpoint: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415  costs 0.3 s, and most run without
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  as above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  as above
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415  as above

    provider = TracerProvider(
        sampler=ALWAYS_ON,  # only sampled calls ask for a span
        resource=Resource.create(
            {
                "service.name": service,
                "service.namespace": "lepton",
                "service.instance.id": instance,
            }
        ),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=not endpoint.startswith("https://"))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
