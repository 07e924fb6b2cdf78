"""Endpoints and the Open Inference Protocol, in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
from google.protobuf.empty_pb2 import Empty

from lepton.api.inference.v1 import inference_pb2, inference_pb2_grpc
from lepton.client import tensors
from lepton.oip.v2 import open_inference_pb2 as oip
from lepton.oip.v2 import open_inference_pb2_grpc as oip_grpc
from tests.unit.sdk.fake_refusals import not_found, refuse


class Inference(inference_pb2_grpc.InferenceServiceServicer):
    """Endpoints that are fetched first and READY when they are asked for the second time."""

    def __init__(self) -> None:
        self.endpoints: dict[str, inference_pb2.Endpoint] = {}
        self.ends: inference_pb2.Endpoint.State.ValueType = inference_pb2.Endpoint.READY

    def CreateEndpoint(self, request: Any, context: Any) -> Any:
        endpoint = request.endpoint
        endpoint.name = f"endpoints/{request.endpoint_id}"
        if endpoint.name in self.endpoints:
            refuse(
                context,
                grpc.StatusCode.ALREADY_EXISTS,
                "ENDPOINT_EXISTS",
                f"{endpoint.name} exists; `lepton endpoint update` changes it",
            )
        endpoint.state = inference_pb2.Endpoint.DEPLOYING
        self.endpoints[endpoint.name] = endpoint
        return endpoint

    def GetEndpoint(self, request: Any, context: Any) -> Any:
        if request.name not in self.endpoints:
            not_found(context, request.name)
        endpoint = self.endpoints[request.name]
        before = inference_pb2.Endpoint()
        before.CopyFrom(endpoint)
        if before.state == inference_pb2.Endpoint.DEPLOYING:
            before.activity = "fetching models/digits/versions/1"
        if endpoint.unloaded:
            return before
        endpoint.state = self.ends
        if self.ends == inference_pb2.Endpoint.FAILED:
            endpoint.failure_reason, endpoint.failure_message = "DIGEST_MISMATCH", "push it again"
        return before

    def ListEndpoints(self, request: Any, context: Any) -> Any:
        return inference_pb2.ListEndpointsResponse(endpoints=self.endpoints.values())

    def UpdateEndpoint(self, request: Any, context: Any) -> Any:
        endpoint = self.endpoints[request.endpoint.name]
        for path in request.update_mask.paths:
            endpoint.ClearField(path)
        update = inference_pb2.Endpoint()
        request.update_mask.MergeMessage(request.endpoint, update, True, True)
        endpoint.MergeFrom(update)
        if endpoint.unloaded:
            endpoint.state = inference_pb2.Endpoint.UNLOADED
        return endpoint

    def load(self, name: str, context: Any) -> None:
        """Serves an endpoint again."""
        endpoint = self.endpoints.get(f"endpoints/{name}")
        if endpoint is None:
            not_found(context, name)
        endpoint.unloaded, endpoint.state = False, self.ends

    def DeleteEndpoint(self, request: Any, context: Any) -> Any:
        if self.endpoints.pop(request.name, None) is None:
            not_found(context, request.name)
        return Empty()


class OpenInference(oip_grpc.GRPCInferenceServiceServicer):
    """The model `digits` takes UINT8 [-1, 2] and answers with its rows doubled, as FP32."""

    def __init__(self, load: Callable[[str, Any], None]) -> None:
        self.answer: Callable[[Any], Any] = self._doubled
        self.any_inputs = False
        """Whether `answer` takes other inputs than those of `digits`."""
        self.versions: set[str] = set()
        """Those that were asked for."""
        self._load = load
        self.parameters: dict[str, Any] = {}
        """Of the last inference."""
        self.routing_key = ""

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        if request.name != "digits":
            refuse(
                context,
                grpc.StatusCode.NOT_FOUND,
                "MODEL_NOT_FOUND",
                f"no endpoint {request.name}; `lepton endpoint list` shows those there are",
            )
        tensor = oip.ModelMetadataResponse.TensorMetadata
        return oip.ModelMetadataResponse(
            name="digits", inputs=[tensor(name="image", datatype="UINT8", shape=[-1, 2])]
        )

    def RepositoryModelLoad(self, request: Any, context: Any) -> Any:
        self._load(request.model_name, context)
        return oip.RepositoryModelLoadResponse()

    def _note(self, request: Any, context: Any) -> None:
        self.routing_key = dict(context.invocation_metadata()).get("x-lepton-routing-key", "")
        self.parameters = {
            name: getattr(value, value.WhichOneof("parameter_choice"))
            for name, value in request.parameters.items()
        }

    def ModelInfer(self, request: Any, context: Any) -> Any:
        self.versions.add(request.model_version)
        self._note(request, context)
        if self.any_inputs:
            return self.answer(request)
        (given,) = request.inputs
        if given.datatype != "UINT8" or len(given.shape) != 2 or given.shape[1] != 2:
            refuse(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "TENSOR_INVALID",
                f"input image is {given.datatype} {list(given.shape)}, must be UINT8 [-1, 2]",
            )
        return self.answer(request)

    def ModelStreamInfer(self, requests: Any, context: Any) -> Any:
        for request in requests:
            self._note(request, context)
            if request.parameters["max_steps"].int64_param > 3:
                yield oip.ModelStreamInferResponse(error_message="this endpoint allows 3 steps")
                continue
            for _ in range(request.parameters["max_steps"].int64_param or 3):
                answer = self.answer(request)
                yield oip.ModelStreamInferResponse(infer_response=answer)
                request.raw_input_contents[0] = tensors.encode(
                    np.frombuffer(answer.raw_output_contents[0], np.float32).astype(np.uint8)
                )

    def _doubled(self, request: Any) -> Any:
        (given,) = request.inputs
        array = tensors.decode(request.raw_input_contents[0], given.datatype, tuple(given.shape))
        doubled = array.astype(np.float32) * 2
        output = oip.ModelInferResponse.InferOutputTensor(
            name="scores", datatype="FP32", shape=doubled.shape
        )
        return oip.ModelInferResponse(
            model_name="digits", outputs=[output], raw_output_contents=[tensors.encode(doubled)]
        )
