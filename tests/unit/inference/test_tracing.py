"""Which requests a workspace has traced, and what their spans say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.asgi import Application
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Admitted, Served, Serving, ServingState
from lepton_inference.settings import ModelSettings
from lepton_inference.tracing import TraceSettings, Tracing
from lepton_mesh.caller import Caller, Role
from lepton_mesh.errors import LeptonError
from lepton_mesh.telemetry import Telemetry
from tests.unit.inference.test_asgi import Exchange, HeldSession, OpenGate, RestExchange

ON = {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]}


class RawRestExchange(RestExchange):
    """One whose tensors are raw both ways, which goes the short way when it comes again."""

    def __init__(self) -> None:
        super().__init__()
        parameters = {"binary_data_size": 8}
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": parameters}
        wanted = {"name": "y", "parameters": {"binary_data": True}}
        header = json.dumps({"inputs": [tensor], "outputs": [wanted]}).encode()
        self._body = header + bytes(8)
        self.headers = ((b"inference-header-content-length", str(len(header)).encode()),)


class Spans:
    """A telemetry whose spans are kept here."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler=ALWAYS_ON)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.telemetry = Telemetry("inference", sample_ratio=0.0)
        self.telemetry._tracer = provider.get_tracer("test")

    def all(self) -> tuple[ReadableSpan, ...]:
        return self._exporter.get_finished_spans()


@pytest.fixture
def spans() -> Spans:
    return Spans()


def sampled(tracing: Tracing, model: str, requests: int) -> list[bool]:
    sampler = tracing.sampler(model)
    return [sampler is not None and sampler.due() for _ in range(requests)]


def test_nothing_is_traced_at_first(spans: Spans) -> None:
    """And the settings say so."""
    tracing = Tracing(spans.telemetry)
    assert tracing.sampler("m") is None
    assert tracing.settings("m") == TraceSettings()
    assert tracing.settings().plain() == {
        "trace_level": ["OFF"],
        "trace_rate": ["1000"],
        "trace_count": ["-1"],
        "trace_mode": ["opentelemetry"],
    }


def test_one_request_in_so_many_until_the_count_is_reached(spans: Spans) -> None:
    """What is left of the count is what the setting says."""
    tracing = Tracing(spans.telemetry)
    tracing.change("", ON | {"trace_rate": ["3"], "trace_count": ["2"]})
    assert sampled(tracing, "m", 5) == [False, False, True, False, False]
    assert tracing.settings().count == 1
    assert sampled(tracing, "n", 5) == [True, False, False, False, False]
    assert tracing.settings("m").count == 0


def test_a_model_of_its_own_settings_is_counted_by_itself(spans: Spans) -> None:
    """What it does not set is the workspace's; taken back, it is one of the others again."""
    tracing = Tracing(spans.telemetry)
    tracing.change("m", {"trace_rate": ["2"]})
    assert tracing.sampler("m") is None
    tracing.change("", ON)
    assert sampled(tracing, "m", 2) == [False, True]
    assert sampled(tracing, "n", 2) == [True, True]
    tracing.change("m", {"trace_level": ["OFF"]})
    assert tracing.sampler("m") is None
    tracing.change("m", {"trace_level": [], "trace_rate": []})
    assert sampled(tracing, "m", 2) == [True, True]
    tracing.change("", {"trace_level": []})
    assert tracing.sampler("m") is tracing.sampler("n") is None


@pytest.mark.parametrize(
    ("changes", "reason", "says"),
    [
        ({"trace_level": ["TENSORS"]}, "PARAMETER_UNSUPPORTED", "trace_level TENSORS"),
        ({"trace_level": ["OFF", "TIMESTAMPS"]}, "PARAMETER_UNSUPPORTED", "trace_level"),
        ({"trace_mode": ["triton"]}, "PARAMETER_UNSUPPORTED", "trace_mode triton"),
        ({"trace_file": ["spans.json"]}, "PARAMETER_UNSUPPORTED", "LEPTON_OTLP_ENDPOINT"),
        ({"log_frequency": ["5"]}, "PARAMETER_UNSUPPORTED", "'log_frequency'"),
        ({"trace_speed": ["1"]}, "PARAMETER_INVALID", "'trace_speed'"),
        ({"trace_rate": ["0"]}, "PARAMETER_INVALID", "trace_rate"),
        ({"trace_rate": ["often"]}, "PARAMETER_INVALID", "trace_rate"),
        ({"trace_rate": ["1", "2"]}, "PARAMETER_INVALID", "trace_rate"),
        ({"trace_rate": ["9" * 5000]}, "PARAMETER_INVALID", "trace_rate"),
        ({"trace_count": ["-2"]}, "PARAMETER_INVALID", "trace_count"),
    ],
)
def test_what_has_no_effect_is_refused_by_name(
    spans: Spans, changes: dict[str, list[str]], reason: str, says: str
) -> None:
    """Nothing of what was asked beside it is set either."""
    tracing = Tracing(spans.telemetry)
    with pytest.raises(LeptonError, match=says) as caught:
        tracing.change("m", ON | changes)
    assert caught.value.reason == reason
    assert tracing.settings("m") == TraceSettings()


def test_tracing_into_nothing_is_refused() -> None:
    """The message names what is missing."""
    for telemetry in (None, Telemetry("inference")):
        tracing = Tracing(telemetry)
        with pytest.raises(LeptonError, match="LEPTON_OTLP_ENDPOINT") as caught:
            tracing.change("", ON)
        assert caught.value.reason == "TRACING_OFF"


class Traced:
    """One model behind the ASGI application."""

    def __init__(self, spans: Spans) -> None:
        session = HeldSession()
        session.go_on.set()
        self.serving = Serving(spans.telemetry)
        self.model = LoadedModel(ModelSource("m", "1", "test", ""), session, ModelSettings())
        served = Served("m", ServingState.READY, models=[self.model], weights=[1])
        self.serving.put("w", served)
        self.protocol = OpenInference(self.serving)
        self.application = Application(
            self.protocol, OpenGate(self.serving), 1 << 20, spans.telemetry
        )

    async def ask(self, exchange: Exchange) -> None:
        await self.application(exchange.scope(), exchange.receive, exchange.send)

    async def set(self, caller: Caller, model: str = "", **settings: list[str]) -> dict[str, Any]:
        request = pb.TraceSettingRequest(model_name=model)
        for name, values in settings.items():
            request.settings[name].value.extend(values)
        admitted = Admitted(caller, self.serving.workspace("w"))
        answer = await self.protocol.call("TraceSetting", admitted, request.SerializeToString())
        found = pb.TraceSettingResponse.FromString(answer).settings
        return {name: list(setting.value) for name, setting in found.items()}


ADMIN = Caller("user", "users/ada", "w", Role.ADMIN)
DEVELOPER = Caller("user", "users/bob", "w", Role.DEVELOPER)
VIEWER = Caller("user", "users/eve", "w", Role.VIEWER)


async def test_requests_are_traced_whichever_way_they_come(spans: Spans) -> None:
    """Short way, general way and REST; from the next request on, and no longer than wanted."""
    traced = Traced(spans)
    for _ in range(3):  # remembered by now
        await traced.ask(Exchange())
    assert spans.all() == ()
    await traced.set(DEVELOPER, "m", **ON)
    for exchange in (Exchange(), Exchange(), RestExchange(), RawRestExchange(), RawRestExchange()):
        await traced.ask(exchange)
    found = spans.all()
    assert len(found) == 5
    for span in found:
        assert (span.name, dict(span.attributes or {})) == (
            "infer",
            {"lepton.model": "m", "lepton.model.version": "1"},
        )
        moments = [span.start_time, *(event.timestamp for event in span.events), span.end_time]
        assert moments == sorted(moments)
        assert [event.name for event in span.events] == [
            "COMPUTE_START",
            "COMPUTE_INPUT_END",
            "COMPUTE_OUTPUT_START",
        ]
    await traced.set(DEVELOPER, "m", trace_level=["OFF"])
    await traced.ask(Exchange())
    await traced.ask(RawRestExchange())
    assert len(spans.all()) == 5
    await traced.model.close()


async def test_a_span_lies_in_the_callers_trace(spans: Spans) -> None:
    """Also where the caller records nothing of it."""
    traced = Traced(spans)
    await traced.set(ADMIN, **ON)
    exchange = Exchange()
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    exchange.headers = (*exchange.headers, (b"traceparent", f"00-{trace}-{parent}-00".encode()))
    await traced.ask(exchange)
    (span,) = spans.all()
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == trace
    await traced.model.close()


async def test_who_may_set_what(spans: Spans) -> None:
    """A developer for a model, an admin for all of the workspace; everybody may look."""
    traced = Traced(spans)
    assert (await traced.set(VIEWER))["trace_level"] == ["OFF"]
    assert (await traced.set(VIEWER, "m"))["trace_rate"] == ["1000"]
    for caller, model in ((VIEWER, "m"), (VIEWER, ""), (DEVELOPER, "")):
        with pytest.raises(LeptonError) as caught:
            await traced.set(caller, model, **ON)
        assert caught.value.reason == "ROLE_TOO_LOW"
    with pytest.raises(LeptonError) as caught:
        await traced.set(ADMIN, "nobody", **ON)
    assert caught.value.reason == "ENDPOINT_NOT_FOUND"
    assert (await traced.set(ADMIN, **ON))["trace_level"] == ["TIMESTAMPS"]
    assert traced.serving.workspace("other").tracing.settings() == TraceSettings()
    await traced.model.close()


async def test_an_endpoint_that_is_removed_leaves_no_settings(spans: Spans) -> None:
    """Another of its name begins as every other."""
    traced = Traced(spans)
    await traced.set(DEVELOPER, "m", **ON)
    traced.serving.remove("w", "m")
    assert traced.serving.workspace("w").tracing.settings("m") == TraceSettings()
    await traced.model.close()
