"""Inference requests and responses as JSON with binary tensors (Triton's extension).

A body is JSON, or JSON followed by raw tensors when ``Inference-Header-Content-Length`` says
where the JSON ends; each raw tensor's length is its parameter ``binary_data_size``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_inference.batch import Outcome
from lepton_inference.json_tensors import column_of, elements_of, shown, values_of
from lepton_inference.model import Model
from lepton_inference.parameters import (
    SharedPart,
    classes_of,
    flag_of,
    generation_of,
    priority_of,
    refuse_shared_memory,
    refuse_unsupported,
    routing_key_of,
    sequence_of,
    shared_part_of,
    timeout_of,
)
from lepton_inference.signature import Checked, InferenceRequest, InputTensor, refuse_repeated
from lepton_inference.tensors import TensorInvalid
from lepton_inference.wire import datatype_named, output_shape, raw_output
from lepton_mesh.errors import InvalidArgument


class BodyInvalid(InvalidArgument):
    """The body is not the JSON, or not the JSON and tensors, that the protocol says."""

    reason = "BODY_INVALID"


class JsonTooLarge(InvalidArgument):
    """Parsing it would hold up every other request: Python's parser lets no other thread run.

    Measured on a worker thread: 62 MiB stalled the event loop for 3.7 of its 4.3 seconds.
    """

    reason = "JSON_TOO_LARGE"


_BINARY = "binary_data"
_LENGTH_DIGITS = 19
"""More than any length has; Python refuses to convert thousands of them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and how its answer is to be written."""

    request: InferenceRequest
    binary: frozenset[str]
    """Outputs wanted raw."""
    all_binary: bool
    """Whether outputs that say nothing are wanted raw."""
    not_binary: frozenset[str]
    """Outputs wanted as JSON whatever the default."""


def decode(
    model: str, version: str, header_length: bytes | None, body: bytes, max_json_bytes: int
) -> Asked:
    """The request in a body.

    Raises:
        JsonTooLarge: Its JSON has more than ``max_json_bytes``.
        BodyInvalid: It is malformed.
        TensorInvalid: A tensor's data does not agree with its datatype or shape.
        ParameterUnsupported, ParameterInvalid: A parameter cannot be honoured.
    """
    end = len(body)
    if header_length is not None:
        if (
            not header_length.isdigit()
            or len(header_length) > _LENGTH_DIGITS
            or int(header_length) > len(body)
        ):
            raise BodyInvalid(
                "Inference-Header-Content-Length is not a length within the body of "
                f"{len(body)} bytes"
            )
        end = int(header_length)
    check_json_size(end, max_json_bytes)
    header = json_object(body[:end])
    parameters = _object(header, "parameters")
    refuse_unsupported(parameters)
    refuse_shared_memory(parameters)
    binary = _Binary(memoryview(body)[end:])
    inputs = [_input(tensor, binary) for tensor in _list(header, "inputs")]
    binary.finish()
    outputs = _list(header, "outputs")
    names = [_text(output, "name") for output in outputs]
    refuse_repeated(names)
    wanted = dict(zip(names, (_object(output, "parameters") for output in outputs), strict=True))
    raw = {n: flag_of(given, _BINARY) for n, given in wanted.items() if _BINARY in given}
    return Asked(
        request=InferenceRequest(
            model=model,
            version=version,
            inputs=inputs,
            outputs=list(wanted),
            id=_text(header, "id", ""),
            timeout=timeout_of(parameters),
            priority=priority_of(parameters),
            routing_key=routing_key_of(parameters),
            sequence=sequence_of(parameters),
            generation=generation_of(parameters),
            placed={
                name: part
                for name, given in wanted.items()
                if (part := shared_part_of(given)) is not None
            },
            classes={
                name: count for name, given in wanted.items() if (count := classes_of(name, given))
            },
        ),
        binary=frozenset(name for name, is_raw in raw.items() if is_raw),
        all_binary=flag_of(parameters, "binary_data_output"),
        not_binary=frozenset(name for name, is_raw in raw.items() if not is_raw),
    )


def encode(
    model: Model,
    asked: Asked,
    checked: Checked,
    outcome: Outcome,
    placed: Mapping[int, SharedPart] | None = None,
) -> tuple[bytes, int | None]:
    """The body of the answer, and its JSON's length if raw tensors follow it.

    Of outputs that were placed in shared memory it says where.

    Raises:
        OutputNotFinite: An output that is wanted as JSON has a NaN or an infinity.
        TensorInvalid: It is of a datatype that goes raw only.
    """
    outputs: list[dict[str, Any]] = []
    raws: list[bytes | memoryview] = []
    batch, _ = outcome
    for index in checked.outputs:
        spec = model.signature.outputs[index]
        array = batch.arrays[index]
        output: dict[str, Any] = {
            "name": spec.name,
            "datatype": "BYTES" if array.dtype == object else spec.datatype.name,
            "shape": list(output_shape(array, batch, checked.rows)),
        }
        if placed and index in placed:
            output["parameters"] = placed[index].parameters()
        elif spec.name in asked.binary or (asked.all_binary and spec.name not in asked.not_binary):
            raw = raw_output(outcome, index, checked.rows)
            output["parameters"] = {"binary_data_size": len(raw)}
            raws.append(raw)
        else:
            output["data"] = elements_of(spec, outcome, index, checked.rows)
        outputs.append(output)
    answer: dict[str, Any] = {
        "model_name": model.source.name,
        "model_version": model.source.version,
        "outputs": outputs,
    }
    if asked.request.id:
        answer["id"] = asked.request.id
    header = json.dumps(answer, allow_nan=False).encode()
    if not raws:
        return header, None
    return b"".join([header, *raws]), len(header)


def check_json_size(size: int, limit: int) -> None:
    """Raises JsonTooLarge."""
    if size > limit:
        raise JsonTooLarge(
            f"the JSON of a request may have {limit} bytes, and this has {size}; send tensors raw, "
            "with the parameter 'binary_data_size'",
            limit=limit,
        )


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in ``body``; raises BodyInvalid, with the place of the fault."""
    try:
        # Strictly UTF-8 (RFC 8259, section 8.1); the parser itself would guess.
        text = body.decode()
        value = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise BodyInvalid(
            f"the body is not JSON: byte {error.start}, counted from 0, is not UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise BodyInvalid(_fault(error)) from None
    except ValueError:
        raise BodyInvalid("the body has a number of too many digits; shorten it") from None
    except RecursionError:
        raise BodyInvalid("the body is nested too deep; take it apart") from None
    if "\\u" in text:
        _refuse_halves(value)
    if not isinstance(value, dict):
        raise BodyInvalid("the body is JSON, and not an object")
    return value


def _fault(error: json.JSONDecodeError) -> str:
    at = f"line {error.lineno}, column {error.colno}"
    if not error.doc.strip():
        return "the body is empty, where JSON is taken"
    if error.pos >= len(error.doc.rstrip()):
        return f"the body is not JSON: it ends at {at}, before it is whole"
    return f"the body is not JSON at {at}; correct the comma, the quotes or the brackets there"


def _refuse_constant(name: str) -> float:
    raise BodyInvalid(
        f"the body has {name}, which is not JSON; send such values raw, with the parameter "
        "'binary_data_size'"
    )


def _refuse_halves(value: Any) -> None:
    """Halves of surrogate pairs are no text, and would fail wherever they are encoded again."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BodyInvalid("the body has half of a surrogate pair, which is no text") from None


class _Binary:
    """The raw tensors after the JSON, taken in order."""

    def __init__(self, content: memoryview) -> None:
        self._content = content
        self._position = 0

    def take(self, name: str, size: object) -> memoryview:
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise BodyInvalid(f"input '{name}' has the binary_data_size {size!r}")
        start, self._position = self._position, self._position + size
        if self._position > len(self._content):
            raise BodyInvalid(
                f"input '{name}' claims {size} raw bytes and {len(self._content) - start} are left"
            )
        return self._content[start : self._position]

    def finish(self) -> None:
        left = len(self._content) - self._position
        if left:
            raise BodyInvalid(f"{left} bytes follow the last raw tensor")


def _input(tensor: dict[str, Any], binary: _Binary) -> InputTensor:
    name = _text(tensor, "name")
    parameters = _object(tensor, "parameters")
    refuse_unsupported(parameters)
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(dim) is int for dim in shape):
        raise TensorInvalid(f"input '{name}' has no shape, a list of integers", tensor=name)
    datatype = datatype_named(name, _text(tensor, "datatype"))
    dims = tuple(shape)
    size = parameters.get("binary_data_size")
    if (part := shared_part_of(parameters)) is not None:
        if "data" in tensor or size is not None:
            raise BodyInvalid(f"input '{name}' is in shared memory, and in the body; send one")
        return InputTensor(name, datatype.name, dims, b"", part)
    if size is None:
        if "data" not in tensor:
            raise TensorInvalid(f"input '{name}' has no data", tensor=name)
        values = values_of(tensor["data"], name, datatype)
        return InputTensor(name, datatype.name, dims, column_of(values, name, datatype, dims))
    if "data" in tensor:
        raise BodyInvalid(f"input '{name}' has data and binary_data_size; send one of them")
    return InputTensor(name, datatype.name, dims, binary.take(name, size))


def _list(holder: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = holder.get(key, [])
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise BodyInvalid(f"'{key}' is not a list of objects")
    return value


def _object(holder: dict[str, Any], key: str) -> dict[str, Any]:
    value = holder.get(key, {})
    if not isinstance(value, dict):
        raise BodyInvalid(f"'{key}' is not an object")
    return value


def _text(holder: dict[str, Any], key: str, default: str | None = None) -> str:
    value = holder.get(key, default)
    if value is None and key not in holder:
        raise BodyInvalid(f"'{key}' is missing; it takes text")
    if not isinstance(value, str):
        raise BodyInvalid(f"'{key}' is {shown(value)}; it takes text")
    return value
