"""Inference requests and responses as protobuf.

A response is a head, which depends on the shape alone and is serialized once, and raw tensors
appended to it.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.batch import Batch, Outcome
from lepton_inference.bounds import check_parts, check_size
from lepton_inference.model import Model
from lepton_inference.parameters import (
    SharedPart,
    classes_of,
    generation_of,
    priority_of,
    refuse_shared_memory,
    refuse_unsupported,
    routing_key_of,
    sequence_of,
    shared_part_of,
    timeout_of,
)
from lepton_inference.signature import InferenceRequest, InputTensor
from lepton_inference.tensors import (
    DATATYPES,
    Column,
    Datatype,
    TensorInvalid,
    element_count,
    encode_bytes,
    text,
)
from lepton_mesh.errors import InvalidArgument
from lepton_mesh.texts import counted

RAW_OUTPUT_TAG = b"\x32"  # ModelInferResponse.raw_output_contents: field 6
_ID_TAG = b"\x1a"  # ModelInferResponse.id: field 3
_CARRIERS = {"int_contents": np.int64, "uint_contents": np.int64}
"""Typed contents carry small integers in 32 bits, which hold more than they may."""
_FINAL = {
    final: pb.ModelInferResponse(
        parameters={"triton_final_response": pb.InferParameter(bool_param=final)}
    ).SerializeToString()
    for final in (True, False)
}
"""The parameter by which Triton tells the last answer to a request from those before."""


class MessageInvalid(InvalidArgument):
    """The bytes are not the protobuf message that the method takes."""

    reason = "MESSAGE_INVALID"


def parse_request(body: bytes | memoryview) -> pb.ModelInferRequest:
    """The message in ``body``; raises MessageInvalid or ContentsTooLarge."""
    message = pb.ModelInferRequest()
    content = bytes(body)
    check_size(content)
    try:
        message.ParseFromString(content)
    except DecodeError:
        raise MessageInvalid("the request is not a ModelInferRequest") from None
    check_parts(message)
    return message


def request_of(message: pb.ModelInferRequest) -> InferenceRequest:
    """The request that the message carries.

    Raises:
        TensorInvalid: Contents do not agree with datatype or shape.
        ParameterUnsupported, ParameterInvalid: A parameter cannot be honoured.
    """
    parameters = {key: parameter_value(value) for key, value in message.parameters.items()}
    inputs = message.inputs
    shared = [_shared_part(tensor.parameters) for tensor in inputs]
    raw = message.raw_input_contents
    in_message = shared.count(None)
    if raw and len(raw) != in_message:
        raise TensorInvalid(
            f"{len(raw)} raw_input_contents for {counted(in_message, 'input')}; one for each that "
            "is not in shared memory, or none"
        )
    raws = iter(raw)
    tensors = []
    for tensor, part in zip(inputs, shared, strict=True):
        refuse_unsupported(tensor.parameters)
        shape = tuple(tensor.shape)
        if (raw or part) and tensor.HasField("contents"):
            raise TensorInvalid(
                f"input '{tensor.name}' has contents, and raw_input_contents or shared memory; "
                "send one of them",
                tensor=tensor.name,
            )
        if part is not None:
            tensors.append(InputTensor(tensor.name, tensor.datatype, shape, b"", part))
            continue
        data: Column = next(raws) if raw else _contents(tensor, shape)
        tensors.append(InputTensor(tensor.name, tensor.datatype, shape, data))
    placed: dict[str, SharedPart] = {}
    classes: dict[str, int] = {}
    for output in message.outputs:
        if not output.parameters:
            continue
        given = {key: parameter_value(value) for key, value in output.parameters.items()}
        if (part := shared_part_of(given)) is not None:
            placed[output.name] = part
        if count := classes_of(output.name, given):
            classes[output.name] = count
    refuse_unsupported(parameters)
    refuse_shared_memory(parameters)
    return InferenceRequest(
        model=message.model_name,
        version=message.model_version,
        inputs=tensors,
        outputs=[output.name for output in message.outputs],
        id=message.id,
        timeout=timeout_of(parameters),
        priority=priority_of(parameters),
        routing_key=routing_key_of(parameters),
        sequence=sequence_of(parameters),
        generation=generation_of(parameters),
        placed=placed,
        classes=classes,
    )


def _shared_part(parameters: Mapping[str, pb.InferParameter]) -> SharedPart | None:
    if not parameters:
        return None
    return shared_part_of({key: parameter_value(value) for key, value in parameters.items()})


def parameter_value(
    parameter: pb.InferParameter
    | pb.LogSettingsRequest.SettingValue
    | pb.LogSettingsResponse.SettingValue,
) -> object:
    """The value of whichever kind is set; None if none is."""
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _contents(tensor: pb.ModelInferRequest.InferInputTensor, shape: tuple[int, ...]) -> Column:
    """A tensor's typed contents as a column."""
    datatype = datatype_named(tensor.name, tensor.datatype)
    if not datatype.contents:
        raise TensorInvalid(
            f"{datatype.name} has no typed contents; send input '{tensor.name}' in "
            "raw_input_contents",
            tensor=tensor.name,
        )
    for field, _ in tensor.contents.ListFields():
        if field.name != datatype.contents:
            raise TensorInvalid(
                f"input '{tensor.name}' is {datatype.name} and has {field.name}; "
                f"use {datatype.contents}",
                tensor=tensor.name,
            )
    values = getattr(tensor.contents, datatype.contents)
    count = element_count(shape, tensor.name)
    if len(values) != count:
        raise TensorInvalid(
            f"input '{tensor.name}' has {counted(len(values), 'element')}; the shape {list(shape)} "
            f"takes {count}",
            tensor=tensor.name,
        )
    if datatype.itemsize == 0:
        elements = np.empty(count, dtype=object)
        elements[:] = [text(tensor.name, value) for value in values]
        return elements.reshape(shape)
    carrier = _CARRIERS.get(datatype.contents, datatype.dtype)
    carried = np.fromiter(values, carrier, count)
    given = carried.astype(datatype.dtype)
    if carrier is np.int64 and not np.array_equal(carried, given):
        raise TensorInvalid(
            f"input '{tensor.name}' has a value that {datatype.name} cannot hold",
            tensor=tensor.name,
        )
    return given.tobytes()


def datatype_named(tensor: str, name: str) -> Datatype:
    """The datatype of that name; raises TensorInvalid."""
    datatype = DATATYPES.get(name)
    if datatype is None:
        raise TensorInvalid(
            f"input '{tensor}' has the datatype '{name}'; use one of {', '.join(DATATYPES)}",
            tensor=tensor,
        )
    return datatype


# --- Responses ---------------------------------------------------------------------------


def output_shape(array: np.ndarray[Any, Any], batch: Batch, rows: int) -> tuple[int, ...]:
    """The shape of one request's part of an output."""
    return (rows, *array.shape[1:]) if batch.batched else array.shape


def raw_output(outcome: Outcome, index: int, rows: int) -> bytes | memoryview:
    """One request's part of one output, raw."""
    batch, first = outcome
    view = batch.views[index]
    if view is None:
        array = batch.arrays[index]
        return encode_bytes(array[first : first + rows] if batch.batched else array)
    if not batch.batched:
        return view
    size = len(view) // batch.rows
    return view[first * size : (first + rows) * size]


def response_head(
    model: Model,
    shapes: tuple[tuple[int, ...], ...],
    outputs: tuple[int, ...],
    placed: Mapping[int, SharedPart] | None = None,
    texts: Container[int] = (),
) -> bytes:
    """Everything of a response that its shape decides.

    Args:
        model: Which answers.
        shapes: Of the outputs.
        outputs: Their indices.
        placed: Those in shared memory, and where.
        texts: Those that are BYTES, also where the model gives numbers: their largest, ranked.
    """
    specs = [model.signature.outputs[index] for index in outputs]
    return pb.ModelInferResponse(
        model_name=model.source.name,
        model_version=model.source.version,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name=spec.name,
                datatype="BYTES" if index in texts else spec.datatype.name,
                shape=shape,
                parameters=_placement(placed[index]) if placed and index in placed else None,
            )
            for index, spec, shape in zip(outputs, specs, shapes, strict=True)
        ],
    ).SerializeToString()


def _placement(part: SharedPart) -> dict[str, pb.InferParameter]:
    return {
        key: pb.InferParameter(string_param=value)
        if isinstance(value, str)
        else pb.InferParameter(int64_param=value)
        for key, value in part.parameters().items()
    }


def response_of(
    model: Model,
    outcome: Outcome,
    rows: int,
    outputs: tuple[int, ...],
    request_id: str,
    *,
    placed: Mapping[int, SharedPart] | None = None,
    final: bool | None = None,
) -> bytes:
    """A serialized ModelInferResponse.

    Of outputs that were ``placed`` elsewhere it says where; on a stream it says whether it is
    the ``final`` one of its request.
    """
    batch, _ = outcome
    shapes = tuple(output_shape(batch.arrays[index], batch, rows) for index in outputs)
    texts = [index for index in outputs if batch.views[index] is None]
    parts: list[bytes | memoryview] = [response_head(model, shapes, outputs, placed, texts)]
    if final is not None:
        parts.append(_FINAL[final])
    if request_id:
        encoded = request_id.encode()
        parts += (_ID_TAG, varint(len(encoded)), encoded)
    for index in outputs:
        # Empty where it was placed: clients count the entries (as with Triton).
        raw = b"" if placed and index in placed else raw_output(outcome, index, rows)
        parts += (RAW_OUTPUT_TAG, varint(len(raw)), raw)
    return b"".join(parts)


def empty_final(model: Model, request_id: str) -> bytes:
    """A serialized ModelInferResponse without outputs, which says that there are no more."""
    return (
        pb.ModelInferResponse(
            model_name=model.source.name, model_version=model.source.version, id=request_id
        ).SerializeToString()
        + _FINAL[True]
    )


def varint(value: int) -> bytes:
    """Protobuf's variable-length encoding of an unsigned integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


FRAME = 5
"""Bytes of a gRPC message's frame: a flag and a length."""


def frame(message: bytes) -> bytes:
    """A gRPC data frame, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message
