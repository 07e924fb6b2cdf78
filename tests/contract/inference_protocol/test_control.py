"""The protocol's control half at every door, by Triton's own clients and KServe's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from tests.contract.inference_protocol import doors, managed
from tests.contract.inference_protocol.conftest import in_thread
from tests.contract.inference_protocol.doors import Server
from tests.contract.inference_protocol.test_public_clients import KSERVE, kserve_python

CLIENT = Path(__file__).with_name("control_client.py")


@pytest.fixture(scope="module")
def asgi_managed() -> Iterator[Server]:
    """Envoy with Python inside."""
    yield from in_thread(managed.asgi)


@pytest.fixture(scope="module")
def grpc_managed() -> Iterator[Server]:
    """grpc.aio."""
    yield from in_thread(managed.grpc_port)


@pytest.fixture(scope="module")
def secured_managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    """The first with mutual TLS, and the gateway in front of it."""
    directory = tmp_path_factory.mktemp("gateway")
    yield from in_thread(lambda: doors.secured(managed.data_port, directory))


@pytest.fixture(scope="module")
def mtls_managed(secured_managed: tuple[Server, Server]) -> Server:
    """With mutual TLS."""
    return secured_managed[0]


@pytest.fixture(scope="module")
def gateway_managed(secured_managed: tuple[Server, Server]) -> Server:
    """Through the gateway."""
    return secured_managed[1]


def named(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_managed")
    return found


@pytest.fixture(params=["asgi", "grpc", "mtls", "gateway"])
def door(request: pytest.FixtureRequest) -> Server:
    """Each way in."""
    return named(request)


@pytest.fixture(params=["asgi", "mtls", "gateway"])
def rest_door(request: pytest.FixtureRequest) -> Server:
    """Each way in that has REST."""
    return named(request)


def ask(kind: str, server: Server) -> dict[str, Any]:
    """What Triton's client saw."""
    return doors.ask(CLIENT, kind, server.as_json())


def check(
    seen: dict[str, Any], *, unavailable: str, failed: str, invalid: str, absent: str
) -> None:
    extensions = {"model_repository", "model_repository(unload_dependents)", "trace", "logging"}
    assert extensions <= set(seen["extensions"])
    assert seen["index before"]["broken"][0] == "UNAVAILABLE"
    assert (seen["loaded"], seen["ready"], seen["rows"]) == (8.0, True, 5)
    assert seen["index loaded"]["digits"] == ["READY", ""]
    assert seen["unready"] is False
    assert seen["index unloaded"]["digits"] == ["UNAVAILABLE", "unloaded"]
    refused = seen["refused"]
    assert refused["unloaded"].startswith(f"{unavailable}: endpoint 'digits' is unloaded")
    assert refused["broken"].startswith(f"{invalid}: the artifact is not an ONNX model")
    assert refused["failed"].startswith(f"{failed}: endpoint 'broken' could not be loaded")
    assert "MODEL_INVALID: the artifact is not an ONNX model" in refused["failed"]
    assert refused["nobody"].startswith(f"{absent}: there is no endpoint 'nobody'")
    assert "optimization" in refused["config"]
    assert seen["again"] == 8.0
    trace = {name: _flat(values) for name, values in seen["trace"].items()}
    first = {
        "trace_level": "OFF",
        "trace_rate": "1000",
        "trace_count": "-1",
        "trace_mode": "opentelemetry",
    }
    assert trace["first"] == trace["off"] == first
    on = first | {"trace_level": "TIMESTAMPS", "trace_rate": "7"}
    assert trace["global"] == trace["cleared"] == on
    assert trace["model"] == trace["other"] == on | {"trace_rate": "2", "trace_count": "5"}
    assert "'trace_file'" in seen["trace refused"]["file"]
    assert "TENSORS" in seen["trace refused"]["level"]
    assert seen["trace refused"]["model"].startswith(f"{absent}: there is no endpoint 'nobody'")
    usual = {
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "json",
    }
    assert seen["log"]["first"] == seen["log"]["back"] == usual
    changed = {"log_info": False, "log_verbose_level": 1, "log_format": "console"}
    assert seen["log"]["changed"] == usual | changed
    assert "'log_file'" in seen["log refused"]


def _flat(settings: dict[str, Any]) -> dict[str, str]:
    """gRPC has a list of every setting, REST of the level."""
    return {
        name: value[0] if isinstance(value, list) else value for name, value in settings.items()
    }


@pytest.mark.parametrize("kind", ["grpc", "aio"])
def test_the_grpc_clients_load_and_unload(door: Server, kind: str) -> None:
    """What is in the registry is loaded, set, unloaded and loaded again."""
    check(
        ask(kind, door),
        unavailable="StatusCode.UNAVAILABLE",
        failed="StatusCode.FAILED_PRECONDITION",
        invalid="StatusCode.INVALID_ARGUMENT",
        absent="StatusCode.NOT_FOUND",
    )


def test_the_http_client_loads_and_unloads(rest_door: Server) -> None:
    """REST is no different."""
    seen = ask("http", rest_door)
    check(seen, unavailable="503", failed="400", invalid="400", absent="404")


def test_kserves_stub_loads_and_unloads(door: Server) -> None:
    """Its messages have other fields than Triton's, and it gets them as it expects them."""
    seen = doors.ask(KSERVE, "control", door.as_json(), python=kserve_python())
    assert seen["load"] == {"model_name": "digits", "isLoaded": True}
    assert seen["ready"] is True
    assert seen["unload"] == {"model_name": "digits", "isUnloaded": True}
    assert seen["unready"] is False
    assert seen["refused"].startswith("StatusCode.NOT_FOUND: there is no endpoint 'nobody'")


def test_kserves_dialect_on_the_wire(door: Server) -> None:
    """``model_name`` is field 1 both ways, and field 2 says that it was done."""
    with door.channel() as channel:
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            call = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            assert call(b"\x0a\x06digits", timeout=20) == b"\x0a\x06digits\x10\x01", method


def test_what_rest_says_of_loading(rest_door: Server) -> None:
    """As KServe answers; other verbs are told which; parameters are refused by name."""
    load = "/v2/repository/models/digits/load"
    with rest_door.http() as client:
        assert client.post(load).json() == {"name": "digits", "load": True}
        unload = client.post(load.replace("load", "unload"), json={"parameters": {}})
        assert unload.json() == {"name": "digits", "unload": True}
        wrong = client.get(load)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
        assert client.post("/v2/repository/models/digits/reload").status_code == 404
        for parameters, status, says in (
            ({"file:1/model.onnx": "eA=="}, 501, "registry"),
            ({"config": 3}, 400, "'config'"),
            ([], 400, "'parameters'"),
        ):
            answer = client.post(load, json={"parameters": parameters})
            assert answer.status_code == status, answer.text
            assert says in answer.json()["error"]


ONE = "/v2/models/digits"
VERSION = f"{ONE}/versions/2"
GENERATE = ("generate", "generate_stream")
PATHS = {
    "GET": (
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models",
        "/v2/models/stats",
        *(f"{model}{part}" for model in (ONE, VERSION) for part in ("", "/ready", "/config")),
        f"{ONE}/stats",
        f"{VERSION}/stats",
    ),
    "POST": (
        f"{ONE}/infer",
        f"{VERSION}/infer",
        *(f"{model}/{way}" for model in (ONE, VERSION) for way in GENERATE),
        "/v2/repository/index",
        "/v2/repository/models/digits/load",
    ),
    "GET, POST": ("/v2/trace/setting", f"{ONE}/trace/setting", "/v2/logging"),
}
"""Verbs -> the paths that know them, and no others; a model is loaded."""


def test_every_path_knows_its_verbs(rest_door: Server) -> None:
    """Others are told which; a path that is none is not found, whatever the verb."""
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}
    bodies: dict[str, Any] = {way: {"image": [1, 1, 1, 1]} for way in GENERATE}
    bodies["infer"] = {"inputs": [tensor]}
    with rest_door.http() as client:
        assert client.post("/v2/repository/models/digits/load").status_code == 200
        for verbs, paths in PATHS.items():
            for path in paths:
                body = bodies.get(path.rpartition("/")[2], {})
                for verb in ("GET", "POST", "PUT", "DELETE"):
                    known = verb in verbs.split(", ")
                    answer = client.request(verb, path, json=body if verb == "POST" else None)
                    assert answer.status_code == (200 if known else 405), (verb, path, answer.text)
                    if not known:
                        assert answer.headers["allow"] == verbs
                        assert answer.json()["reason"] == "METHOD_NOT_ALLOWED"
        for path in (
            f"{ONE}/nothing",
            f"{ONE}/versions",
            f"{VERSION}/trace/setting",
            f"{VERSION}/load",
            "/v2/repository",
            "/v2/repository/models",
            "/v2/repository/models/digits",
            "/v2/trace",
            "/v2/health",
        ):
            for verb in ("GET", "POST"):
                answer = client.request(verb, path)
                assert (answer.status_code, answer.json()["reason"]) == (404, "PATH_UNKNOWN"), path


def test_the_extensions_are_those_that_are_there(door: Server) -> None:
    """By Triton's names, and REST's own where there is REST; no shared memory here."""
    with door.channel() as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerMetadata")
        metadata = pb.ServerMetadataResponse.FromString(call(b"", timeout=20))
    rest = ["generate"] if door.rest else []
    assert sorted(metadata.extensions) == sorted(
        [
            *rest,
            "binary_tensor_data",
            "classification",
            "logging",
            "model_configuration",
            "model_repository",
            "model_repository(unload_dependents)",
            "parameters",
            "schedule_policy",
            "sequence",
            "sequence(string_id)",
            "statistics",
            "trace",
        ]
    )


def test_what_rest_says_of_settings(rest_door: Server) -> None:
    """Both verbs, where they are and where not, and JSON that says nothing they could be."""
    load = {"parameters": {}}
    with rest_door.http() as client:
        assert client.post("/v2/repository/models/digits/load", json=load).status_code == 200
        for path in ("/v2/trace/setting", "/v2/models/digits/trace/setting", "/v2/logging"):
            assert client.get(path).status_code == client.post(path).status_code == 200
            assert client.post(path, json=[1]).status_code == 400
            refused = client.delete(path)
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, POST")
        assert client.get("/v2/models/digits/versions/2/trace/setting").status_code == 404
        assert client.get("/v2/models/nobody/trace/setting").status_code == 404
        rate = client.post("/v2/trace/setting", json={"trace_rate": 9})
        assert rate.json()["trace_rate"] == "9"
        assert client.post("/v2/trace/setting", json={"trace_rate": None}).status_code == 200
        for path, body in (
            ("/v2/trace/setting", {"trace_rate": True}),
            ("/v2/trace/setting", {"trace_rate": {}}),
            ("/v2/logging", {"log_info": [True]}),
            ("/v2/logging", {"log_verbose_level": -1}),
            ("/v2/logging", {"log_verbose_level": 0.5}),
        ):
            answer = client.post(path, json=body)
            assert (answer.status_code, answer.json()["reason"]) == (400, "PARAMETER_INVALID")
