"""Predictions a second: our data plane and gateway beside the limits on both sides.

``bare grpc.aio`` answers the same request with a constant, which is what any Python gRPC
server must do; ``onnxruntime`` runs the model in a loop, without any server.
"""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime

from bench.data_plane import data_plane
from bench.load import Load, drive
from lepton.client import Client
from lepton.client.tensors import infer_request
from lepton.oip.v2 import open_inference_pb2 as oip

IN_FLIGHT = (1, 32, 256)
PATH = "/inference.GRPCInferenceService/ModelInfer"
_HEADERS = {"content-type": "application/grpc", "te": "trailers"}


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to load."""

    server: str
    model: str
    url: str
    body: bytes
    answer_bytes: int
    headers: Callable[[], Mapping[str, str]]


async def measure(
    lepton: Client, models: Mapping[str, Path], *, seconds: float, repeats: int
) -> list[dict[str, Any]]:
    """Loads every target in turn, ``repeats`` times round; returns medians, a row a target.

    Args:
        lepton: A client of a stack that has an endpoint by the name of each model.
        models: ONNX files by name.
        seconds: Of load for each figure.
        repeats: Rounds; the median of each figure is kept.
    """
    loads: dict[tuple[str, str, int], list[Load]] = {}
    async with data_plane(dict(models)) as (address, _), _bare() as bare:
        targets = [_target("bare grpc.aio", "mlp", f"http://{bare}", dict)]
        for model in models:
            targets.append(_target("lepton, direct", model, f"http://{address}", dict))
            targets.append(_gateway_target(lepton, model))
        for _ in range(repeats):
            for in_flight in IN_FLIGHT:
                for target in targets:
                    load = drive(
                        target.url + PATH,
                        target.body,
                        {**_HEADERS, **target.headers()},
                        in_flight=in_flight,
                        seconds=seconds,
                        answer_bytes=target.answer_bytes,
                    )
                    loads.setdefault((target.server, target.model, in_flight), []).append(load)
                    print(
                        f"  {target.server:<16} {target.model:<4} {in_flight:>4} in flight  "
                        f"{load.requests_per_second:>9,.0f} req/s  p50 {load.p50_ms:.2f} ms  "
                        f"p99 {load.p99_ms:.2f} ms",
                        file=sys.stderr,
                    )
    rows = [
        {
            "server": server,
            "model": model,
            "in_flight": in_flight,
            **_median(each).plain(),
            "rounds": [round(load.requests_per_second, 1) for load in each],
        }
        for (server, model, in_flight), each in loads.items()
    ]
    return rows + [
        row for model, path in models.items() for row in in_process(model, path, seconds)
    ]


def in_process(model: str, path: Path, seconds: float) -> list[dict[str, Any]]:
    """Rows a second of ``session.run`` in a loop, at batches of 1, 32 and 256."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = []
    for batch in IN_FLIGHT:
        images = image(batch)
        durations = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            session.run(None, {name: images})
            durations.append(time.perf_counter() - began)
        rows.append(
            {
                "server": "onnxruntime, no server",
                "model": model,
                "in_flight": batch,
                "requests_per_second": round(batch * len(durations) / sum(durations), 1),
                "p50_ms": round(1000 * float(np.percentile(durations, 50)), 3),
                "p99_ms": round(1000 * float(np.percentile(durations, 99)), 3),
            }
        )
    return rows


def _target(server: str, model: str, url: str, headers: Callable[[], Mapping[str, str]]) -> Target:
    request = infer_request(model, {"images": image(1)})
    size = answer_bytes(url.removeprefix("http://"), request)
    return Target(server, model, url, framed(request), size, headers)


def _gateway_target(lepton: Client, model: str) -> Target:
    request = infer_request(model, {"images": image(1)})
    size = _answer_bytes(lepton.channel, request)
    return Target(
        "lepton, gateway",
        model,
        f"https://{lepton.profile.address}",
        framed(request),
        size,
        lambda: {"authorization": f"Bearer {lepton.tokens.token()}"},
    )


def answer_bytes(address: str, request: oip.ModelInferRequest) -> int:
    """Size of the framed answer of a server without TLS."""
    with grpc.insecure_channel(address) as channel:
        return _answer_bytes(channel, request)


def _answer_bytes(channel: grpc.Channel, request: oip.ModelInferRequest) -> int:
    """Size of the framed answer; the request is sent once, so that it is known to work."""
    call = channel.unary_unary(
        PATH,
        request_serializer=oip.ModelInferRequest.SerializeToString,
        response_deserializer=oip.ModelInferResponse.FromString,
    )
    return 5 + call(request, timeout=30).ByteSize()


def framed(request: oip.ModelInferRequest) -> bytes:
    """A gRPC message: not compressed, its length, itself."""
    message = request.SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


def image(rows: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Noise in the shape of MNIST's images."""
    return np.random.default_rng(0).integers(0, 256, (rows, 28, 28), dtype=np.uint8)


def _median(loads: list[Load]) -> Load:
    return Load(
        statistics.median(load.requests_per_second for load in loads),
        statistics.median(load.p50_ms for load in loads),
        statistics.median(load.p99_ms for load in loads),
    )


@contextlib.asynccontextmanager
async def _bare() -> AsyncIterator[str]:
    process = subprocess.Popen(  # noqa: ASYNC220  # before the load, once
        [sys.executable, "-m", "bench.bare_grpc_aio_server"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(10)
