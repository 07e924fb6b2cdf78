"""Triton's and KServe's own clients, unchanged, at every door; and Triton's descriptors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2

from lepton.oip.v2 import open_inference_pb2
from tests.contract.inference_protocol import doors
from tests.contract.inference_protocol.conftest import MODELS
from tests.contract.inference_protocol.doors import Server

TRITON = Path(__file__).with_name("public_client.py")
KSERVE = Path(__file__).with_name("kserve_client.py")
KSERVE_PYTHON = Path(__file__).parents[3] / "build/clients/kserve/bin/python"
SUMS = [[10.0] * 3, [26.0] * 3]
CLASSES = ["2.000000:1:dog", "0.500000:0:cat", "3.000000:0:cat", "3.000000:2:emu"]


def ask(*arguments: str) -> dict[str, Any]:
    """What Triton's client saw."""
    return doors.ask(TRITON, *arguments)


def ask_kserve(*arguments: str) -> dict[str, Any]:
    """What KServe's client saw."""
    return doors.ask(KSERVE, *arguments, python=kserve_python())


def kserve_python() -> str:
    """The interpreter of the environment that KServe's client is in."""
    if not KSERVE_PYTHON.exists():
        pytest.skip("KServe's client is not installed; `make clients` does it")
    return str(KSERVE_PYTHON)


def test_the_grpc_client_is_content(door: Server) -> None:
    """Every basic method, batching, several inputs, text, compression, refusals, a stream."""
    seen = ask("grpc", door.as_json())
    assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, True)
    assert seen["model_unready"] is False
    assert (seen["server"], seen["config"]) == ("lepton", "linear")
    assert seen["metadata"]["platform"] == "onnxruntime_onnx"
    assert seen["metadata"]["inputs"] == [
        {"name": "image", "datatype": "FP32", "shape": ["-1", "4"]}
    ]
    assert seen["index"] == sorted(MODELS)
    for key in ("scores", "wanted", "timeout_parameter", "gzip", "async"):
        assert seen[key] == SUMS, key
    assert seen["id"] == "r1"
    assert seen["total"] == [[11, 12], [13, 14]]
    assert seen["count"] == [[7], [8]]
    assert seen["only_count"] == ["count"]
    assert seen["text"] == ["über", ""]
    assert seen["classes"] == CLASSES
    assert seen["bf16"] == [[0.5, -3]]
    assert seen["inferences"] >= 14
    refused = seen["refused"]
    assert refused["unknown"].startswith("StatusCode.NOT_FOUND: there is no endpoint 'nobody'")
    assert refused["version"].startswith("StatusCode.NOT_FOUND")
    for method in ("load", "unload"):  # these doors' models are given to them
        assert refused[method].startswith("StatusCode.UNIMPLEMENTED"), method
    first, second, third = seen["stream"]
    assert first == third == SUMS[0]
    assert second.startswith("there is no endpoint 'nobody'")


def test_the_aio_client_gets_its_own_rows(door: Server) -> None:
    """Sixty-four requests in shared batches: each gets the answer to its own question."""
    seen = ask("aio", door.as_json())
    assert (seen["live"], seen["model_ready"]) == (True, True)
    assert seen["metadata"] == "onnxruntime_onnx"
    assert seen["firsts"] == [4.0 * number for number in range(64)]
    refused = seen["streamed"].pop(3)
    assert refused.startswith("there is no endpoint 'nobody'")
    assert seen["streamed"] == [[str(n), 4.0 * n] for n in range(8) if n != 3]


def test_the_http_client_is_content(rest_door: Server) -> None:
    """REST: JSON and binary tensors in all four pairings, text, compression, refusals."""
    seen = ask("http", rest_door.as_json())
    assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, True)
    assert seen["model_unready"] is False
    assert (seen["server"], seen["config"]) == ("lepton", 64)
    assert seen["metadata"]["outputs"] == [{"name": "scores", "datatype": "FP32", "shape": [-1, 3]}]
    assert seen["metadata"]["properties"]["execution_provider"] == "CPUExecutionProvider"
    assert seen["index"] == sorted(MODELS)
    for key in ("json-json", "json-binary", "binary-json", "binary-binary", "default", "async"):
        assert seen[key] == SUMS, key
    assert seen["gzip"] == seen["deflate"] == SUMS
    assert seen["id"] == "r1"
    assert seen["text-True"] == seen["text-False"] == ["über", ""]
    assert seen["classes-True"] == seen["classes-False"] == CLASSES
    assert seen["bf16"] == [[0.5, -3]]
    assert seen["inferences"] > 0
    assert seen["refused"]["unknown"].startswith("404: there is no endpoint 'nobody'")
    assert seen["refused"]["version"].startswith("404")
    assert seen["refused"]["load"].startswith("501")


def _check_kserve(seen: dict[str, Any]) -> None:
    assert (seen["live"], seen["ready"], seen["model_ready"]) == (True, True, True)
    assert seen["model_unready"] is False
    assert seen["raw"] == seen["typed"] == SUMS
    assert (seen["id"], seen["model"]) == ("r1", "linear")
    assert seen["total"] == [[11, 12], [13, 14]]
    assert seen["count"] == [[7], [8]]
    assert seen["wanted"] == ["count"]
    assert seen["text"] == ["über", ""]
    assert seen["half"] == [[0.5, -1.5]]
    assert "there is no endpoint 'nobody'" in seen["refused"]


def test_kserves_grpc_client_is_content(door: Server) -> None:
    """Every method it has, tensors raw and typed."""
    seen = ask_kserve("grpc", door.as_json())
    _check_kserve(seen)
    assert "StatusCode.NOT_FOUND" in seen["refused"]


def test_kserves_rest_client_is_content(rest_door: Server) -> None:
    """Every method it has, tensors binary and JSON, both ways."""
    seen = ask_kserve("rest", rest_door.as_json())
    _check_kserve(seen)
    assert "404 Not Found" in seen["refused"]
    assert seen["binary-True"] == seen["binary-False"] == seen["all-binary"] == SUMS


def test_the_descriptors_are_tritons() -> None:
    """Every message, field, number, type and method is the public client's, but for the package."""
    ours = descriptor_pb2.FileDescriptorProto()
    open_inference_pb2.DESCRIPTOR.CopyToProto(ours)
    theirs = descriptor_pb2.FileDescriptorProto()
    for serialized in ask("descriptors")["files"]:
        theirs.MergeFromString(bytes.fromhex(serialized))
    assert ours.package == "lepton.oip.v2"
    assert _flat(ours, "lepton.oip.v2") == _flat(theirs, "inference")


def _flat(file: descriptor_pb2.FileDescriptorProto, package: str) -> dict[str, Any]:
    """Names to what matters on the wire and to generated code, without the package."""

    def plain(name: str) -> str:
        return name.removeprefix(f".{package}.")

    flat: dict[str, Any] = {}
    for service in file.service:
        for method in service.method:
            flat[f"{service.name}.{method.name}"] = (
                plain(method.input_type),
                plain(method.output_type),
                method.client_streaming,
                method.server_streaming,
            )

    def enums(prefix: str, found: Any) -> None:
        for enum in found:
            flat[f"{prefix}{enum.name}"] = {value.name: value.number for value in enum.value}

    def messages(prefix: str, found: Any) -> None:
        for message in found:
            path = f"{prefix}{message.name}"
            flat[path] = message.options.map_entry
            enums(f"{path}.", message.enum_type)
            messages(f"{path}.", message.nested_type)
            for field in message.field:
                oneof = (
                    message.oneof_decl[field.oneof_index].name
                    if field.HasField("oneof_index")
                    else ""
                )
                flat[f"{path}.{field.name}"] = (
                    field.number,
                    field.label,
                    field.type,
                    plain(field.type_name),
                    oneof,
                )

    messages("", file.message_type)
    enums("", file.enum_type)
    return flat
