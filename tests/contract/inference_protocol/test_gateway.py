"""The gateway hands the whole protocol on: what it answers is what the data port answers."""

from __future__ import annotations

import gzip
import json
import queue
import zlib
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from tests.contract.inference_protocol.doors import Server

METHODS = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
SERVICES = ("inference.GRPCInferenceService", "lepton.oip.v2.GRPCInferenceService")

LENGTH = "Inference-Header-Content-Length"
IMAGE = np.array([[1, 2, 3, 4]], np.float32).tobytes()
TENSOR = {"name": "image", "shape": [1, 4], "datatype": "FP32"}
AS_JSON = json.dumps({"inputs": [{**TENSOR, "data": [1, 2, 3, 4]}]}).encode()
FLAT = json.dumps({"image": [1, 2, 3, 4]}).encode()
HEADER = json.dumps(
    {
        "inputs": [{**TENSOR, "parameters": {"binary_data_size": len(IMAGE)}}],
        "outputs": [{"name": "scores", "parameters": {"binary_data": True}}],
    }
).encode()
BINARY = {LENGTH: str(len(HEADER)), "Content-Type": "application/octet-stream"}
INFER = "/v2/models/linear/infer"

# (verb, path, headers, body)
REQUESTS: tuple[tuple[str, str, dict[str, str], bytes], ...] = (
    *(
        ("GET", path, {}, b"")
        for path in (
            "/v2",
            "/v2/",
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models",
            "/v2/models/linear",
            "/v2/models/linear/versions/1",
            "/v2/models/linear/ready",
            "/v2/models/linear/versions/1/ready",
            "/v2/models/linear/config",
            "/v2/models/linear/versions/1/config",
            "/v2/models/nobody",
            "/v2/models/nobody/ready",
            "/v2/models/linear/versions/9",
            "/v2/trace/setting",
            "/v2/models/linear/trace/setting",
            "/v2/logging",
            "/v2/systemsharedmemory/status",
            "/v2/systemsharedmemory/region/r/status",
            "/v2/cudasharedmemory/status",
            "/v2/cudasharedmemory/region/r/status",
            "/v2/nothing",
            "/v2/models/%C3%A9",
            "/v2/models/%FF",
            INFER,
        )
    ),
    *(
        ("POST", path, {}, b"{}")
        for path in (
            "/v2/repository/index",
            "/v2/repository/models/linear/load",
            "/v2/repository/models/linear/unload",
            "/v2/trace/setting",
            "/v2/models/linear/trace/setting",
            "/v2/logging",
            "/v2/systemsharedmemory/region/r/register",
            "/v2/systemsharedmemory/region/r/unregister",
            "/v2/systemsharedmemory/unregister",
            "/v2/cudasharedmemory/region/r/register",
            "/v2/cudasharedmemory/region/r/unregister",
            "/v2/cudasharedmemory/unregister",
            "/v2/models/linear/generate",
            "/v2/models/linear/generate_stream",
            "/v2/models/linear",
            INFER,
        )
    ),
    ("POST", INFER, {}, AS_JSON),
    ("POST", "/v2/models/linear/generate", {}, FLAT),
    ("POST", "/v2/models/linear/generate_stream", {}, FLAT),
    ("POST", "/v2/models/linear/versions/1/infer", {}, AS_JSON),
    ("POST", INFER, BINARY, HEADER + IMAGE),
    ("POST", INFER, BINARY, HEADER + IMAGE[:-1]),
    ("POST", INFER, {"Content-Encoding": "gzip"}, gzip.compress(AS_JSON, mtime=0)),
    ("POST", INFER, {"Content-Encoding": "deflate"}, zlib.compress(AS_JSON)),
    (
        "POST",
        INFER,
        {**BINARY, "Content-Encoding": "gzip"},
        gzip.compress(HEADER + IMAGE, mtime=0),
    ),
    ("POST", INFER, {"Content-Encoding": "br"}, b"x"),
)


def test_every_rest_path_is_handed_on(mtls_server: Server, gateway_server: Server) -> None:
    """Status, headers of the protocol and body are the data port's, refusals included."""
    with mtls_server.http() as direct, gateway_server.http() as gateway:
        for verb, path, headers, body in REQUESTS:
            expected, answer = (
                client.request(verb, path, headers=headers, content=body)
                for client in (direct, gateway)
            )
            case = (verb, path, headers, answer.text)
            assert answer.status_code == expected.status_code, case
            assert answer.content == expected.content, case
            for header in ("content-type", LENGTH, "allow", "retry-after"):
                assert answer.headers.get(header) == expected.headers.get(header), case
        # These count what was asked in between.
        for path in ("/v2/models/stats", "/v2/models/linear/stats"):
            assert gateway.get(path).json()["model_stats"], path


def outcome(call: Any, body: bytes) -> tuple[Any, ...]:
    """What a call gave: its answer, or its refusal with the details."""
    try:
        return ("answer", call(body, timeout=20))
    except grpc.RpcError as raised:
        error: Any = raised
        details = dict(error.trailing_metadata()).get("grpc-status-details-bin")
        return (error.code(), error.details(), details)


@pytest.mark.parametrize("service", SERVICES)
def test_every_method_is_handed_on(
    mtls_server: Server, gateway_server: Server, service: str
) -> None:
    """All twenty, under both names: the answer to nothing and to something, or the refusal."""
    assert len(METHODS) == 20
    named = pb.ModelReadyRequest(name="linear").SerializeToString()
    with mtls_server.channel() as direct, gateway_server.channel() as gateway:
        for method in METHODS:
            if method.client_streaming or method.name == "ModelStatistics":
                continue
            path = f"/{service}/{method.name}"
            for body in (b"", named, b"\xff"):
                expected, answer = (
                    outcome(channel.unary_unary(path), body) for channel in (direct, gateway)
                )
                assert answer == expected, (method.name, body)
        stats = gateway.unary_unary(f"/{service}/ModelStatistics")
        assert pb.ModelStatisticsResponse.FromString(stats(named, timeout=20)).model_stats


def test_a_stream_is_handed_on_in_both_directions(gateway_server: Server) -> None:
    """Each answer comes before the next request is sent: nothing waits for the stream's end."""
    request = pb.ModelInferRequest(
        model_name="linear",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=[1, 4])],
        raw_input_contents=[IMAGE],
    )
    requests: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()

    def sent() -> Iterator[bytes]:
        while (message := requests.get()) is not None:
            yield message.SerializeToString()

    with gateway_server.channel() as channel:
        path = "/inference.GRPCInferenceService/ModelStreamInfer"
        answers = channel.stream_stream(path)(sent(), timeout=30)
        for number, model in enumerate(("linear", "nobody", "linear")):
            request.model_name, request.id = model, str(number)
            requests.put(request)
            answer = pb.ModelStreamInferResponse.FromString(next(answers))
            if model == "linear":
                assert answer.infer_response.id == str(number)
                assert (
                    answer.infer_response.raw_output_contents[0] == np.float32([10] * 3).tobytes()
                )
            else:
                assert answer.error_message.startswith("there is no endpoint 'nobody'")
        requests.put(None)
        assert list(answers) == []
        assert answers.code() == grpc.StatusCode.OK


def test_large_tensors_are_handed_on(gateway_server: Server) -> None:
    """Of tens of megabytes, both ways, by gRPC and by REST."""
    raw = np.arange(64 << 17, dtype=np.float32).tobytes()  # 32 MiB
    shape = [64, 1 << 17]
    request = pb.ModelInferRequest(
        model_name="sequence",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=shape)],
        raw_input_contents=[raw],
    )
    with gateway_server.channel() as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = pb.ModelInferResponse.FromString(call(request.SerializeToString(), timeout=60))
    assert answer.raw_output_contents[0] == raw
    tensor = {"name": "x", "shape": shape, "datatype": "FP32"}
    header = json.dumps(
        {
            "inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    with gateway_server.http() as client:
        response = client.post(
            "/v2/models/sequence/infer", content=header + raw, headers={LENGTH: str(len(header))}
        )
    assert response.status_code == 200, response.text
    assert response.content[int(response.headers[LENGTH]) :] == raw
