"""What the data plane remembers of requests, so that the next one like it is quick."""

from __future__ import annotations

import numpy as np
import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.batch import Batch
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.plans import Plans
from lepton_inference.settings import ModelSettings
from lepton_inference.wire import frame, varint
from tests.inference_plane import Plane
from tests.unit.inference.test_asgi import HeldSession

# Field 1000, length-delimited, which the protocol does not have: protobuf keeps it.
UNKNOWN_FIELD = b"\xc2\x3e"


@pytest.mark.parametrize(("padding", "remembered"), [(0, True), (512, True), (1 << 20, False)])
async def test_what_precedes_a_tensor_is_remembered_when_it_is_short(
    padding: int, remembered: bool
) -> None:
    """Otherwise a caller could fill the memory, a megabyte a request."""
    model = LoadedModel(ModelSource("m", "1", "onnx", digest=""), HeldSession(), ModelSettings())
    tensor = pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])
    message = pb.ModelInferRequest(model_name="m", inputs=[tensor]).SerializeToString()
    message += UNKNOWN_FIELD + varint(padding) + bytes(padding)
    message += b"\x3a" + varint(8) + bytes(8)  # raw_input_contents
    body = b"\0" + len(message).to_bytes(4, "big") + message
    plans = Plans()
    batch = Batch([np.zeros((1, 2), np.float32)], 1, batched=True)

    plans.learn(body, pb.ModelInferRequest.FromString(message), model, batch)

    assert (plans.find(body) is not None) == remembered


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    return Plane(tmp_path_factory.mktemp("models"))


def framed(rows: int, value: float) -> bytes:
    image = np.full((rows, 4), value, np.float32)
    tensor = pb.ModelInferRequest.InferInputTensor(
        name="image", datatype="FP32", shape=list(image.shape)
    )
    message = pb.ModelInferRequest(
        model_name="linear", inputs=[tensor], raw_input_contents=[image.tobytes()]
    )
    return frame(message.SerializeToString())


def test_a_body_that_lies_about_its_length_shifts_nobodys_rows(plane: Plane) -> None:
    """Two liars that together bring as many rows as they claim neither see nor change others."""
    one, two = framed(1, 1), framed(2, 1)
    start = len(one) - 16
    for body in (one, two):
        assert plane.grpc([body]).grpc_status == 0  # and is remembered
    claims_too_much = two[:start] + one[start:]
    claims_too_little = one[:start] + two[start:]

    answers = plane.run(plane.ask_at_once([[claims_too_much], [framed(1, 7)], [claims_too_little]]))

    assert [answer.grpc_status for answer in answers] == [3, 0, 3]
    answer = pb.ModelInferResponse.FromString(answers[1].body[5:])
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [28.0] * 3
