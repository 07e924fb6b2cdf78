"""What the data plane remembers of requests, so that the next one like it is quick."""

from __future__ import annotations

import numpy as np
import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.batch import Batch
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.settings import ModelSettings
from lepton_inference.wire import Plans, varint
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
