"""Spans reach an OTLP collector when they are sampled, and only then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from lepton_mesh.authorization import Rule
from lepton_mesh.telemetry import Telemetry, format_traceparent, parse_traceparent

if TYPE_CHECKING:
    from conftest import Mesh

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_a_sampled_call_is_exported_below_its_parent(mesh: Mesh) -> None:
    """The caller's decision holds: sampled is exported with its code, not sampled is not."""
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    telemetry = Telemetry("storage", otlp_endpoint=f"http://127.0.0.1:{port}", sample_ratio=0.0)

    async def same(text: str) -> str:
        return text

    running = await mesh.serve(same, Rule(public=True), telemetry=telemetry)
    stub = mesh.stub(running)
    for flags in ("00", "01"):
        sent = (("traceparent", f"00-{TRACE}-{PARENT}-{flags}"),)
        await stub.call("UnaryUnary", "x", metadata=sent)
    await stub.call("UnaryUnary", "x")
    await running.server.drain(0)
    await asyncio.to_thread(telemetry.close)
    (span,) = collector.spans
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    attributes = {one.key: one.value.string_value for one in span.attributes}
    assert attributes["rpc.response.status_code"] == "OK"
    await server.stop(None)


@pytest.mark.parametrize(
    ("header", "valid"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"cc-{TRACE}-{PARENT}-01-later", True),
        (f"00-{TRACE}-{PARENT}-01-later", False),
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (f"00-{TRACE.upper()}-{PARENT}-01", False),
        ("", False),
        (None, False),
    ],
)
def test_traceparent_is_read_as_w3c_says(header: str | None, valid: bool) -> None:
    """Trace Context section 3.2: malformed headers begin a new trace."""
    span = parse_traceparent(header)
    assert (span is not None) == valid
    if span is not None:
        assert format_traceparent(span) == f"00-{TRACE}-{PARENT}-01"
