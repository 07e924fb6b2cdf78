"""Triton's generate extension: inputs and parameters of a request in one flat JSON object.

    {"text": "good", "max_steps": 3}  ->  {"model_name": "m", "model_version": "1", "label": "yes"}

What is called as an input of the model is that input, everything else is a parameter, whether it
stands in the object itself or in its ``parameters``. Shapes are not said, and follow from the
model's (``extension_generate.md`` of Triton's protocol documents, provisional there).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lepton_inference.batch import Outcome
from lepton_inference.json_tensors import column_of, elements_of, shown, values_of
from lepton_inference.model import Model
from lepton_inference.parameters import (
    ParameterInvalid,
    ParameterUnsupported,
    generation_of,
    priority_of,
    refuse_shared_memory,
    refuse_unsupported,
    routing_key_of,
    sequence_of,
    timeout_of,
)
from lepton_inference.rest_codec import BodyInvalid, json_object
from lepton_inference.serving import Admitted
from lepton_inference.signature import Checked, InferenceRequest, InputTensor, tail_of
from lepton_inference.tensors import TensorInvalid, TensorSpec

EXTENSION = "generate"
"""Its name among those of ServerMetadata."""


class EventsAsked(NamedTuple):
    """A request whose answers are to come as server-sent events."""

    admitted: Admitted
    model: Model
    request: InferenceRequest
    size: int
    """Bytes of its body."""


def decode(
    admitted: Admitted, name: str, version: str, body: bytes
) -> tuple[Model, InferenceRequest]:
    """Who is to answer, and what is asked.

    Args:
        admitted: Who asks.
        name: The endpoint's.
        version: The version that is wanted; "" for any.
        body: The request's JSON.

    Raises:
        BodyInvalid: It is malformed.
        TensorInvalid: An input's data do not fit its datatype, or its shape does not follow.
        ParameterInvalid, ParameterUnsupported: A parameter cannot be honoured.
        EndpointNotFound, EndpointFailed, EndpointNotReady, VersionNotServed: Nobody is to answer.
    """
    served = admitted.workspace.find(name)
    served.pick()  # says so if nobody is to answer; only models say what is an input
    inputs = {spec.name for model in served.models for spec in model.signature.inputs}
    given = json_object(body)
    nested = {} if "parameters" in inputs else given.pop("parameters", {})
    if not isinstance(nested, dict):
        raise BodyInvalid("'parameters' is not an object")
    request_id = "" if "id" in inputs else given.pop("id", "")
    if not isinstance(request_id, str):
        raise BodyInvalid(f"'id' is {shown(request_id)}; it takes text")
    if twice := given.keys() & nested.keys():
        raise BodyInvalid(
            f"'{min(twice)}' stands in the body and in its 'parameters'; give it in one of them"
        )
    given |= nested
    parameters = {name: value for name, value in given.items() if name not in inputs}
    _check(parameters, inputs)
    request = InferenceRequest(
        model=name,
        version=version,
        inputs=[],
        id=request_id,
        timeout=timeout_of(parameters),
        priority=priority_of(parameters),
        routing_key=routing_key_of(parameters),
        sequence=sequence_of(parameters),
        generation=generation_of(parameters),
        owner=admitted.caller.subject,
    )
    model = served.route(request)
    signature = model.signature
    request.inputs = [
        _tensor(spec, given[spec.name], signature.batched)
        for spec in signature.inputs
        if spec.name in given
    ]
    return model, request


def head(model: Model, request_id: str) -> dict[str, Any]:
    """An answer without outputs."""
    answer: dict[str, Any] = {
        "model_name": model.source.name,
        "model_version": model.source.version,
    }
    if request_id:
        answer["id"] = request_id
    return answer


def encode(model: Model, request_id: str, checked: Checked, outcome: Outcome) -> bytes:
    """An answer: each output a list of its elements in row-major order, or its only element.

    Raises:
        OutputNotFinite: An output has a NaN or an infinity.
        TensorInvalid: It is of a datatype that JSON has no form for.
    """
    answer = head(model, request_id)
    for index in checked.outputs:
        spec = model.signature.outputs[index]
        elements = elements_of(spec, outcome, index, checked.rows)
        answer[spec.name] = elements[0] if len(elements) == 1 else elements
    return json.dumps(answer, allow_nan=False).encode()


def _check(parameters: Mapping[str, object], inputs: set[str]) -> None:
    """Raises what :func:`decode` says of parameters that cannot be honoured."""
    for name, value in parameters.items():
        if name == "binary_data_output":
            raise ParameterUnsupported(
                "the parameter 'binary_data_output' has no effect here: answers are JSON; infer "
                "gives raw tensors",
                parameter=name,
            )
        if not isinstance(value, (str, int, float)):  # truth values are numbers to Python
            raise ParameterInvalid(
                f"'{name}' is no input of the model, which has {', '.join(sorted(inputs))}, and no "
                "parameter: these are text, numbers or truth values",
                parameter=name,
            )
    refuse_unsupported(parameters)
    refuse_shared_memory(parameters)


def _tensor(spec: TensorSpec, data: object, batched: bool) -> InputTensor:
    values = values_of(data, spec.name, spec.datatype)
    shape = _shape(spec, values, batched)
    column = column_of(values, spec.name, spec.datatype, shape)
    return InputTensor(spec.name, spec.datatype.name, shape, column)


def _shape(spec: TensorSpec, values: np.ndarray[Any, Any], batched: bool) -> tuple[int, ...]:
    """The shape of an input that was given without one.

    Data nested as deep as the input has dimensions have their own; one level less is one row. A
    single value or a flat list fills one row, of which it may decide one dimension.
    """
    shape: tuple[int, ...] = values.shape
    if values.ndim == len(spec.shape):
        return shape
    if batched and values.ndim == len(spec.shape) - 1:
        return (1, *shape)
    row = tail_of(spec.shape, batched)
    if values.ndim > 1 or row.count(-1) > 1:
        raise TensorInvalid(
            f"the shape of input '{spec.name}' does not follow from its data; nest them as deep as "
            f"{list(spec.shape)}, which the model takes",
            tensor=spec.name,
            expected=list(spec.shape),
        )
    open_size = values.size // math.prod(dim for dim in row if dim >= 0)
    filled = tuple(open_size if dim < 0 else dim for dim in row)
    return (1, *filled) if batched else filled
