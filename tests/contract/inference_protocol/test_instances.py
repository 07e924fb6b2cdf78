"""Sequences meet their state where several instances are behind the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from data_plane import data_plane

from lepton.oip.v2 import open_inference_pb2 as pb
from tests.contract.inference_protocol import doors
from tests.contract.inference_protocol.conftest import in_thread
from tests.contract.inference_protocol.doors import Server

SEQUENCES, STEPS = 24, 4
METHOD = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def two(model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The gateway in front of two."""
    models = {"lstm": model_files["lstm"]}
    directory = tmp_path_factory.mktemp("instances")
    for _, gateway in in_thread(
        lambda: doors.secured(lambda tls: data_plane(models, tls), directory, instances=2)
    ):
        yield gateway


def step(
    channel: grpc.Channel, value: np.ndarray, id_: int, *, first: bool, last: bool, keyed: bool
) -> np.ndarray:
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=value.shape)
    request = pb.ModelInferRequest(
        model_name="lstm",
        inputs=[tensor],
        parameters={
            "sequence_id": pb.InferParameter(int64_param=id_),
            "sequence_start": pb.InferParameter(bool_param=first),
            "sequence_end": pb.InferParameter(bool_param=last),
        },
        raw_input_contents=[value.tobytes()],
    )
    metadata = [("x-lepton-routing-key", str(id_))] if keyed else []
    raw = channel.unary_unary(METHOD)(request.SerializeToString(), metadata=metadata, timeout=20)
    answer = pb.ModelInferResponse.FromString(raw)
    return np.frombuffer(answer.raw_output_contents[0], np.float32).reshape(1, value.shape[1], 4)


def test_the_routing_key_leads_to_the_state(two: Server) -> None:
    """Each step of each of many interleaved sequences; without it some steps are refused."""
    inputs = np.random.default_rng(5).standard_normal((SEQUENCES, STEPS, 3)).astype(np.float32)
    given: dict[int, list[np.ndarray]] = {id_: [] for id_ in range(1, SEQUENCES + 1)}
    with two.channel() as channel:
        for t in range(STEPS):
            for id_, steps in given.items():
                value = inputs[id_ - 1 : id_, t : t + 1]
                steps.append(
                    step(channel, value, id_, first=t == 0, last=t == STEPS - 1, keyed=True)
                )
        for id_, steps in given.items():
            whole = step(channel, inputs[id_ - 1 : id_], id_, first=True, last=True, keyed=True)
            np.testing.assert_allclose(np.concatenate(steps, axis=1), whole, atol=1e-6)
        refused = 0
        for id_ in given:
            step(channel, inputs[:1, :1], id_, first=True, last=False, keyed=False)
        for id_ in given:
            try:
                step(channel, inputs[:1, :1], id_, first=False, last=True, keyed=False)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
                refused += 1
        assert 0 < refused < SEQUENCES
