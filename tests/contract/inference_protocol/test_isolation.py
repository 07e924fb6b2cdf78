"""Models that mean harm, in processes of their own, at the data port that serves others too."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from pydantic import TypeAdapter

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.settings import ExecutionSettings, Isolation, ModelSettings
from tests.contract.inference_protocol import doors
from tests.contract.inference_protocol.conftest import in_thread
from tests.contract.inference_protocol.doors import Server
from tests.hostile_models import endless_above, expands_to_its_value
from tests.inference_models import linear

OWN = Isolation.OWN_PROCESS
_ENDED_SECONDS = 20.0
"""Long beside the start of a process, short beside the minute after which any run is ended."""
MODELS = {
    "linear": (linear(1.0), ExecutionSettings()),
    "growing": (expands_to_its_value(), ExecutionSettings(isolation=OWN, memory_limit_mib=512)),
    "endless": (endless_above(100.0), ExecutionSettings(isolation=OWN, max_run_ms=1000)),
    "unbounded": (endless_above(100.0), ExecutionSettings(isolation=OWN)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Envoy with these models."""
    folder = tmp_path_factory.mktemp("hostile")
    files = {}
    for name, (content, execution) in MODELS.items():
        files[name] = folder / f"{name}.onnx"
        files[name].write_bytes(content)
        settings = TypeAdapter(ModelSettings).dump_json(ModelSettings(execution=execution))
        files[name].with_suffix(".json").write_bytes(settings)
    yield from in_thread(lambda: doors.asgi(files))


class Asked:
    """The data port, asked about rows of one value."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    def start(self, model: str, value: float, timeout: float = 60) -> Any:
        row = np.full((1, 4), value, np.float32).tobytes()
        name = "image" if model == "linear" else "x"
        inputs = [pb.ModelInferRequest.InferInputTensor(name=name, datatype="FP32", shape=[1, 4])]
        request = pb.ModelInferRequest(model_name=model, inputs=inputs, raw_input_contents=[row])
        return self._call.future(request.SerializeToString(), timeout=timeout)

    def value(self, call: Any) -> float:
        answer = pb.ModelInferResponse.FromString(call.result())
        return float(np.frombuffer(answer.raw_output_contents[0], np.float32)[0])

    def failure(self, call: Any) -> tuple[grpc.StatusCode, str]:
        error = call.exception()
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(info)
        return error.code(), info.reason


@pytest.fixture
def asked(server: Server) -> Iterator[Asked]:
    with server.channel() as channel:
        yield Asked(channel)


def processes_of(pid: int) -> list[int]:
    """The children of a process that run a model."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it is over
            if f"\nPPid:\t{pid}\n" in (each / "status").read_text():
                found += [int(each.name)] * (b"model_worker" in (each / "cmdline").read_bytes())
    return found


def test_memory_is_refused_to_whom_it_hurts(asked: Asked) -> None:
    """100 GiB fail at once; others are answered, and so is the next request of the same model."""
    guilty = asked.start("growing", 1e10)
    assert asked.value(asked.start("linear", 1.0)) == 4.0
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert asked.failure(guilty) == (exhausted, "MEMORY_LIMIT")
    assert asked.value(asked.start("growing", 7.0)) == 7.0


def test_a_request_that_does_not_end_is_ended(asked: Asked) -> None:
    """Others are answered meanwhile, by other models and by the same one afterwards."""
    guilty = asked.start("endless", 1000.0)
    for _ in range(20):
        assert asked.value(asked.start("linear", 1.0)) == 4.0
    behind = asked.start("endless", -5.0)
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert asked.failure(guilty) == (exhausted, "RUN_TOO_LONG")
    assert asked.value(behind) == 5.0


def test_a_run_ends_with_its_caller(asked: Asked) -> None:
    """Who cancels lets the model go, long before it would be ended by itself."""
    given_up = asked.start("unbounded", 1000.0)
    asked.value(asked.start("linear", 1.0))  # it came before this, and runs
    given_up.cancel()
    assert asked.value(asked.start("unbounded", -5.0, timeout=_ENDED_SECONDS)) == 5.0
    late = asked.start("unbounded", 1000.0, timeout=0.2)
    assert late.exception().code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert asked.value(asked.start("unbounded", -3.0, timeout=_ENDED_SECONDS)) == 3.0


def test_a_process_that_dies_takes_the_request_with_it_that_it_runs(
    asked: Asked, server: Server
) -> None:
    """And no other: those that were idle are replaced before anybody hears of it."""
    guilty = asked.start("unbounded", 1000.0)
    asked.value(asked.start("linear", 1.0))  # it came before this, and runs
    for pid in processes_of(server.pid):
        os.kill(pid, signal.SIGKILL)
    assert asked.failure(guilty) == (grpc.StatusCode.UNAVAILABLE, "MODEL_CRASHED")
    assert asked.value(asked.start("unbounded", -5.0)) == 5.0
    assert asked.value(asked.start("growing", 7.0)) == 7.0
    assert asked.value(asked.start("linear", 1.0)) == 4.0
