"""Endpoints, and predictions through them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from lepton.client.errors import ApiError, EndpointFailedError, translated
from lepton.client.names import endpoint_name, model_version_name
from lepton.client.pages import items
from lepton.client.sequences import SequenceStep, limit, routing
from lepton.oip.v2 import open_inference_pb2 as oip
from lepton.oip.v2.open_inference_pb2_grpc import GRPCInferenceServiceStub

if TYPE_CHECKING:
    from lepton.client import tensors

_POLL_SECONDS = 0.1


class EndpointClient:
    """Serves models and asks them. Every method raises :class:`lepton.client.ApiError`."""

    def __init__(
        self, stub: InferenceServiceStub, open_inference: GRPCInferenceServiceStub
    ) -> None:
        self._stub = stub
        self._open_inference = open_inference

    def create(
        self,
        endpoint: str,
        model_version: str = "",
        *,
        batching: pb.Batching | None = None,
        wanted: pb.Endpoint | None = None,
    ) -> pb.Endpoint:
        """Creates an endpoint and returns at once; see :meth:`wait`.

        Args:
            endpoint: Its id or resource name.
            model_version: The one version that it serves.
            batching: How it batches.
            wanted: Everything else, such as a split over versions; what is given besides counts
                before what stands in it.
        """
        asked = pb.Endpoint()
        if wanted is not None:
            asked.CopyFrom(wanted)
        if model_version:
            del asked.targets[:]
            asked.targets.add(model_version=model_version_name(model_version), weight=1)
        if batching is not None:
            asked.batching.CopyFrom(batching)
        request = pb.CreateEndpointRequest(
            endpoint_id=endpoint.removeprefix("endpoints/"), endpoint=asked
        )
        with translated():
            return self._stub.CreateEndpoint(request, timeout=30)

    def update(
        self,
        endpoint: str,
        *,
        model_version: str = "",
        batching: pb.Batching | None = None,
        wanted: pb.Endpoint | None = None,
        fields: Collection[str] = (),
    ) -> pb.Endpoint:
        """Serves something else, or in another way; what is not given stays.

        What is new is loaded before it replaces the old; see :meth:`wait`.

        Args:
            endpoint: Its id or resource name.
            model_version: The one version that it serves from now on.
            batching: How it batches from now on.
            wanted: Whose fields replace the endpoint's, those that are set.
            fields: Further fields of ``wanted`` that do, where they have their default, such as
                ``response_cache_bytes`` to turn the cache off.
        """
        changed = pb.Endpoint()
        if wanted is not None:
            changed.CopyFrom(wanted)
        if model_version:
            del changed.targets[:]
            changed.targets.add(model_version=model_version_name(model_version), weight=1)
        if batching is not None:
            changed.batching.CopyFrom(batching)
        changed.ClearField("name")
        paths = sorted({field.name for field, _ in changed.ListFields()}.union(fields) - {"name"})
        changed.name = endpoint_name(endpoint)
        request = pb.UpdateEndpointRequest(endpoint=changed, update_mask=FieldMask(paths=paths))
        with translated():
            return self._stub.UpdateEndpoint(request, timeout=30)

    def get(self, endpoint: str) -> pb.Endpoint:
        """Returns an endpoint by id or resource name."""
        with translated():
            return self._stub.GetEndpoint(
                pb.GetEndpointRequest(name=endpoint_name(endpoint)), timeout=30
            )

    def list(self) -> Iterator[pb.Endpoint]:
        """Yields every endpoint of the workspace, in order of name."""
        return items(
            lambda token: self._stub.ListEndpoints(
                pb.ListEndpointsRequest(page_token=token), timeout=30
            ),
            lambda page: page.endpoints,
        )

    def load(self, name: str, *, timeout: float = 120.0) -> pb.Endpoint:
        """Serves an endpoint again that was unloaded, and returns it once it is READY.

        Its aliases are resolved anew, also where it was loaded. A name that is no endpoint's but a
        model's gets an endpoint that serves the model's newest version.

        Args:
            name: An endpoint's id or resource name, or a model's id.
            timeout: Seconds; what was begun goes on beyond them.
        """
        model = name.removeprefix("endpoints/")
        with translated():
            self._open_inference.RepositoryModelLoad(
                oip.RepositoryModelLoadRequest(model_name=model), timeout=timeout
            )
        return self.get(model)

    def unload(self, endpoint: str) -> pb.Endpoint:
        """Serves an endpoint no more, gives its memory back, and keeps it on record."""
        unloaded = pb.Endpoint(unloaded=True)
        return self.update(endpoint, wanted=unloaded)

    def delete(self, endpoint: str) -> None:
        """Stops serving an endpoint."""
        with translated():
            self._stub.DeleteEndpoint(
                pb.DeleteEndpointRequest(name=endpoint_name(endpoint)), timeout=60
            )

    def wait(
        self,
        endpoint: str,
        timeout: float = 120.0,
        seen: Callable[[pb.Endpoint], object] | None = None,
    ) -> pb.Endpoint:
        """Waits until an endpoint is READY.

        Args:
            endpoint: Its id or resource name.
            timeout: Seconds.
            seen: Called with the endpoint again and again, as it stands meanwhile.

        Raises:
            EndpointFailedError: It is FAILED or UNLOADED, or still not READY after ``timeout``
                seconds.
        """
        deadline = time.monotonic() + timeout
        while True:
            current = self.get(endpoint)
            if seen is not None:
                seen(current)
            if current.state == pb.Endpoint.READY:
                return current
            if current.state == pb.Endpoint.FAILED:
                raise EndpointFailedError(
                    f"{current.name} failed ({current.failure_reason}): {current.failure_message}"
                )
            if current.state == pb.Endpoint.UNLOADED:
                raise EndpointFailedError(f"{current.name} is unloaded; load it")
            if time.monotonic() > deadline:
                doing = current.activity or current.failure_message
                raise EndpointFailedError(
                    f"{current.name} is not READY after {timeout:.0f} s"
                    + (f": {doing}" if doing else "")
                )
            time.sleep(_POLL_SECONDS)

    def metadata(self, endpoint: str) -> oip.ModelMetadataResponse:
        """Returns what an endpoint takes and gives."""
        with translated():
            return self._open_inference.ModelMetadata(
                oip.ModelMetadataRequest(name=endpoint.removeprefix("endpoints/")), timeout=30
            )

    def infer(
        self,
        endpoint: str,
        inputs: Mapping[str, tensors.Array],
        *,
        version: str = "",
        sequence: SequenceStep | None = None,
        timeout: float = 60.0,
    ) -> dict[str, tensors.Array]:
        """Predicts.

        Args:
            endpoint: Its id.
            inputs: Arrays by input name, batch first, in the dtypes of the model.
            version: The one of the endpoint's versions that answers, such as ``3``; one by weight
                where empty.
            sequence: Where the request belongs, for a model that keeps states.
            timeout: Seconds.

        Returns:
            Arrays by output name, batch first.

        Raises:
            ApiError: The endpoint did not answer with predictions.
            TensorError: An input or an output has no numpy equivalent.
        """
        # Most clients never predict.
        from lepton.client import tensors  # noqa: PLC0415  numpy takes 0.1 s to import

        request = tensors.infer_request(endpoint.removeprefix("endpoints/"), inputs)
        request.model_version = version
        if sequence is not None:
            sequence.put_in(request)
        with translated():
            answer = self._open_inference.ModelInfer(
                request, timeout=timeout, metadata=routing(sequence)
            )
        return tensors.outputs(answer)

    def generate(
        self,
        endpoint: str,
        inputs: Mapping[str, tensors.Array],
        *,
        max_steps: int = 0,
        end_value: float | None = None,
        sequence: SequenceStep | None = None,
        timeout: float | None = None,
    ) -> Iterator[dict[str, tensors.Array]]:
        """Yields what each step of a model that feeds its outputs back gives, as it comes.

        Close the iterator to stop the model.

        Args:
            endpoint: Its id.
            inputs: Those of the first step, of one row, as in :meth:`infer`.
            max_steps: The most steps; 0 for as many as the endpoint allows.
            end_value: The step that gives this value is the last.
            sequence: Where the request belongs, for a model that keeps states.
            timeout: Seconds for all of it; None for no bound.

        Raises:
            ApiError: The endpoint refused the request, or a step failed.
            TensorError: An input or an output has no numpy equivalent.
        """
        from lepton.client import tensors  # noqa: PLC0415  as above

        request = tensors.infer_request(endpoint.removeprefix("endpoints/"), inputs)
        if sequence is not None:
            sequence.put_in(request)
        limit(request, max_steps, end_value)
        with translated():
            call = self._open_inference.ModelStreamInfer(
                iter((request,)), timeout=timeout, metadata=routing(sequence)
            )
            try:
                for answer in call:
                    if answer.error_message:
                        raise ApiError(grpc.StatusCode.UNKNOWN, "UNKNOWN", answer.error_message, {})
                    yield tensors.outputs(answer.infer_response)
            finally:
                call.cancel()
