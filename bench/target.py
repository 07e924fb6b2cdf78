"""One thing to load: where it is, what it is sent, and how much a right answer has."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import onnxruntime

from bench.load import Load, answered, drive
from lepton.client.tensors import infer_request
from lepton.oip.v2 import open_inference_pb2 as oip

IN_FLIGHT = (1, 32, 256)
PATH = "/inference.GRPCInferenceService/ModelInfer"
INPUT = "images"
GRPC_HEADERS = {"content-type": "application/grpc", "te": "trailers"}
_JSON_VARIES = 0.8
"""The least share of an answer's JSON that any other has: numbers are not equally long."""
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Target:
    """One server, model and protocol."""

    server: str
    model: str
    protocol: str
    url: str
    body: bytes
    answer_bytes: int
    headers: Callable[[], Mapping[str, str]] = field(default=lambda: GRPC_HEADERS)
    http1: bool = False

    def load(self, in_flight: int, seconds: float, rate: float = 0.0) -> Load:
        """Loads it while it has nothing else to do; returns when it has nothing left to do.

        A server works on for seconds at requests whose callers are gone, which would be taken
        from whoever is loaded next.

        Args:
            in_flight: 1, 32 or 256.
            seconds: How long.
            rate: Requests a second at most; 0 for as many as are answered.

        Raises:
            LoadError: A request failed.
        """
        headers = self.headers()
        answered(self.url, self.body, headers, http1=self.http1)
        try:
            return drive(
                self.url,
                self.body,
                headers,
                in_flight=in_flight,
                seconds=seconds,
                answer_bytes=self.answer_bytes,
                warm_up=0,
                http1=self.http1,
                rate=rate,
            )
        finally:
            answered(self.url, self.body, headers, http1=self.http1)


class Model:
    """A model file, one row of input for it, and the right answer."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = path
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (spec,) = session.get_inputs()
        assert spec.name == INPUT, f"{path} calls its input {spec.name}"
        self.tail = tuple(int(dim) for dim in spec.shape[1:])
        self.datatype = "UINT8" if spec.type == "tensor(uint8)" else "FP32"
        self.answer: Array = session.run(None, {INPUT: self.rows(1)})[0]

    def rows(self, count: int) -> Array:
        """Noise of the model's input shape: pictures of a byte a pixel, or normal numbers."""
        random = np.random.default_rng(0)
        if self.datatype == "UINT8":
            return random.integers(0, 256, (count, *self.tail), dtype=np.uint8)
        return random.standard_normal((count, *self.tail), dtype=np.float32)

    def grpc_body(self) -> bytes:
        """A framed ModelInferRequest."""
        return framed(infer_request(self.name, {INPUT: self.rows(1)}))

    def rest_binary(self) -> tuple[bytes, dict[str, str]]:
        """A body with its tensor raw, as Triton's extension has it, and its headers."""
        raw = self.rows(1).tobytes()
        tensor = self._rest_input() | {"parameters": {"binary_data_size": len(raw)}}
        head = _json({"inputs": [tensor], "parameters": {"binary_data_output": True}})
        return head + raw, {
            "content-type": "application/octet-stream",
            "inference-header-content-length": str(len(head)),
        }

    def rest_json(self) -> tuple[bytes, dict[str, str]]:
        """A body of JSON alone."""
        tensor = self._rest_input() | {"data": self.rows(1).reshape(-1).tolist()}
        return _json({"inputs": [tensor]}), {"content-type": "application/json"}

    def base64_json(self) -> tuple[bytes, dict[str, str]]:
        """JSON that carries the raw tensor as base64, for servers without a protocol."""
        raw = base64.b64encode(self.rows(1).tobytes()).decode()
        return _json({INPUT: raw}), {"content-type": "application/json"}

    def _rest_input(self) -> dict[str, Any]:
        return {"name": INPUT, "shape": [1, *self.tail], "datatype": self.datatype}

    def check(self, answer: Array, server: str) -> None:
        """Fails unless the server gave what the model gives."""
        assert np.allclose(answer.reshape(-1), self.answer.reshape(-1), rtol=1e-2, atol=1e-2), (
            f"{server} does not answer {self.name} as ONNX Runtime does"
        )


def grpc_target(
    server: str,
    model: Model,
    address: str,
    channel: grpc.Channel,
    *,
    protocol: str = "grpc",
    scheme: str = "http",
    headers: Callable[[], Mapping[str, str]] = dict,
    right: bool = True,
) -> Target:
    """A target that was asked once and answered right.

    Args:
        address: Its ``host:port``.
        channel: To it, with whatever its callers need.
        headers: Beyond gRPC's own, made anew for each load.
        right: Whether the answer's numbers are to be right; the bare server's are not.
    """
    body = model.grpc_body()
    request = oip.ModelInferRequest.FromString(body[5:])
    call = channel.unary_unary(
        PATH,
        request_serializer=oip.ModelInferRequest.SerializeToString,
        response_deserializer=oip.ModelInferResponse.FromString,
    )
    answer = call(request, timeout=60)
    if right:
        model.check(_numbers(answer), server)
    return Target(
        server,
        model.name,
        protocol,
        f"{scheme}://{address}{PATH}",
        body,
        5 + answer.ByteSize(),
        lambda: {**GRPC_HEADERS, **headers()},
    )


def rest_target(
    server: str,
    model: Model,
    url: str,
    body: tuple[bytes, dict[str, str]],
    *,
    protocol: str,
    numbers: Callable[[httpx.Response], Array],
) -> Target:
    """A target over HTTP/1.1, as REST clients speak it, asked once and answered right."""
    content, headers = body
    response = httpx.post(url, content=content, headers=headers, timeout=60)
    response.raise_for_status()
    model.check(numbers(response), server)
    size = len(response.content)
    if response.headers["content-type"].startswith("application/json"):
        size = int(_JSON_VARIES * size)
    return Target(server, model.name, protocol, url, content, size, lambda: headers, http1=True)


def binary_numbers(response: httpx.Response) -> Array:
    """The one FP32 output of an answer with raw tensors."""
    head = int(response.headers["inference-header-content-length"])
    return np.frombuffer(response.content[head:], np.float32)


def json_numbers(response: httpx.Response) -> Array:
    """The one output of an answer in the protocol's JSON."""
    return np.array(response.json()["outputs"][0]["data"], np.float32)


def _numbers(answer: oip.ModelInferResponse) -> Array:
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[0], np.float32)
    return np.array(answer.outputs[0].contents.fp32_contents, np.float32)


def framed(request: oip.ModelInferRequest) -> bytes:
    """A gRPC message: not compressed, its length, itself."""
    message = request.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
