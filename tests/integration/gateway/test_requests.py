"""What users get from the gateway, by every protocol it speaks."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import struct
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton_gateway.exchange import MAX_RUNNING_PER_ADDRESS
from tests.integration.gateway.world import GOOD_KEY, SigningKey, World, api_key, until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

MODEL_INFER = (
    "/inference.GRPCInferenceService/ModelInfer",
    "/lepton.oip.v2.GRPCInferenceService/ModelInfer",
)


def reason_of(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    assert status is not None, error
    assert status.message == error.details()
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "lepton.dev"
    return str(info.reason)


async def test_grpc_with_a_token_reaches_the_service(world: World) -> None:
    """The service gets the token, and not what only the mesh may say."""
    async with world.channel() as channel:
        stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        lies = (
            ("x-lepton-workspace", "other"),
            ("x-forwarded-client-cert", "URI=spiffe://lepton.local/svc/auth"),
            ("x-envoy-retry-on", "5xx"),
        )
        answer = await stub.GetDataset(
            storage_pb2.GetDatasetRequest(name="datasets/mnist"),
            metadata=(*world.bearer().items(), ("traceparent", "00-1-2-01"), *lies),
        )
    assert answer.name == "datasets/mnist"
    seen = world.seen.metadata[-1]
    assert seen["authorization"].startswith("Bearer ")
    assert seen["traceparent"] == "00-1-2-01"
    assert seen["x-request-id"]
    assert "x-envoy-internal" not in seen
    assert not {name for name, _ in lies} & seen.keys()


@pytest.mark.parametrize("method", MODEL_INFER)
async def test_open_inference_goes_to_the_data_port(world: World, method: str) -> None:
    """Under both names, with any payload of up to tens of MB, untouched."""
    payload = bytes(8 << 20)
    async with world.channel() as channel:
        answer = await channel.unary_unary(method)(payload, metadata=tuple(world.bearer().items()))
    assert answer == payload


async def test_a_routing_key_stays_with_its_instance(world: World) -> None:
    """Keys spread over the instances, and one that comes takes its own from the others and moves
    hardly any between them."""
    bearer = tuple(world.bearer().items())
    async with world.channel() as channel:
        infer = channel.unary_unary(MODEL_INFER[0])
        keys = [f"k{number}" for number in range(24)]

        async def place(key: str) -> str:
            world.seen.calls.clear()
            await infer(b"", metadata=(("x-lepton-routing-key", key), *bearer))
            return next(iter(world.seen.calls))

        async def places(instances: int) -> dict[str, str]:
            """Each key's, once Envoy has taken over what inotify tells it of."""
            async with asyncio.timeout(20):
                while True:
                    first, again = [{key: await place(key) for key in keys} for _ in range(2)]
                    if first == again and len(set(first.values())) == instances:
                        return first

        await world.serve("inference", "inference-2", "oip")
        before = await places(2)
        await world.serve("inference", "inference-3", "oip")
        after = await places(3)
        strays = [key for key in keys if after[key] not in (before[key], "inference-3")]
        assert len(strays) <= 2
        for name in ("inference-2", "inference-3"):
            world.view.remove("inference", name)
        assert set((await places(1)).values()) == {"inference-1"}


async def test_errors_of_services_come_through(world: World) -> None:
    """With their status, message and ErrorInfo, by gRPC and by REST."""
    async with world.channel() as channel:
        stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetDataset(
                storage_pb2.GetDatasetRequest(name="datasets/missing"),
                metadata=tuple(world.bearer().items()),
            )
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert reason_of(caught.value) == "DATASET_NOT_FOUND"
    async with world.http() as http:
        response = await http.get("/v1/datasets/missing", headers=world.bearer())
    assert response.status_code == 404
    body = response.json()
    assert (body["code"], body["message"]) == (5, "dataset 'missing'")
    assert body["details"][0]["reason"] == "DATASET_NOT_FOUND"


async def test_rest_is_transcoded(world: World) -> None:
    """Paths, bodies and streams as the google.api.http annotations say."""
    async with world.http() as http:
        got = await http.get("/v1/datasets/mnist", headers=world.bearer())
        made = await http.post("/v1/datasets", headers=world.bearer(), json={"datasetId": "d"})
        lines = await http.get("/v1/jobs/j:logs", headers=world.bearer())
    assert got.json() == {"name": "datasets/mnist"}
    assert made.json() == {"name": "datasets/d"}
    assert [json.loads(line)["text"] for line in lines.text.splitlines()] == [
        "line 0",
        "line 1",
        "line 2",
    ]


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/datasets", {"datasetId": "d", "labls": {}}, "labls"),
        (
            "/v1/jobs",
            {"spec": {"hyperparameter": {}, "resources": {"cpuz": 1}}},
            "spec.hyperparameter, did you mean 'hyperparameters'?; spec.resources.cpuz, did you",
        ),
        ("/v1/auth/token", {"api_key": GOOD_KEY, "work": "x"}, "work, did you mean"),
    ],
)
async def test_unknown_fields_of_a_body_are_named(
    world: World, path: str, body: dict[str, Any], told: str
) -> None:
    """With a token, an API key or none, before any service is asked."""
    seen = len(world.seen.metadata)
    async with world.http() as http:
        for headers in (world.bearer(), {"x-api-key": GOOD_KEY}, {}):
            response = await http.post(path, headers=headers, json=body)
            assert (response.status_code, response.json()["reason"]) == (400, "INVALID_REQUEST")
            assert told in response.json()["message"]
    assert len(world.seen.metadata) == seen


async def test_a_large_body_is_not_looked_into(world: World) -> None:
    """It gets through, whole."""
    body = {"datasetId": "large", "unknown": "x" * (300 << 10)}
    async with world.http() as http:
        response = await http.post("/v1/datasets", headers=world.bearer(), json=body)
    assert response.json() == {"name": "datasets/large"}


async def test_grpc_web(world: World) -> None:
    """A browser's framing: one data frame, one trailer frame, also in base64."""
    request = storage_pb2.GetDatasetRequest(name="datasets/web").SerializeToString()
    frame = struct.pack(">BI", 0, len(request)) + request
    path = "/lepton.api.storage.v1.StorageService/GetDataset"
    async with world.http() as http:
        plain = await http.post(
            path,
            content=frame,
            headers={**world.bearer(), "content-type": "application/grpc-web+proto"},
        )
        text = await http.post(
            path,
            content=base64.b64encode(frame),
            headers={
                **world.bearer(),
                "content-type": "application/grpc-web-text",
                "accept": "application/grpc-web-text",
            },
        )
        refused = await http.post(
            path, content=frame, headers={"content-type": "application/grpc-web+proto"}
        )
    # Each frame is padded by itself.
    decoded = b"".join(map(base64.b64decode, re.findall(rb"[\w+/]+=*", text.content)))
    for body in (plain.content, decoded):
        flag, length = struct.unpack(">BI", body[:5])
        assert flag == 0
        assert storage_pb2.Dataset.FromString(body[5 : 5 + length]).name == "datasets/web"
        assert b"grpc-status:0" in body[5 + length :]
    assert "16" in (refused.headers.get("grpc-status", ""), *refused.text.split("grpc-status:"))


async def test_jwks_and_health_need_no_token(world: World) -> None:
    """As do login and the probes."""
    async with world.http() as http:
        keys = await http.get("/.well-known/jwks.json")
        health = await http.get("/healthz")
        ready = await http.get("/readyz")
        login = await http.post(
            "/v1/auth/token", json={"password": {"user": "ada", "password": "correct horse"}}
        )
    assert keys.json()["keys"][0]["kid"] == "first"
    assert health.text == "ok"
    assert ready.text == "ready; no instance of registry"
    assert login.json()["accessToken"]
    async with world.channel() as channel:
        serving = await channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        assert serving == b"\x08\x01"
        assert await channel.unary_unary("/inference.GRPCInferenceService/ServerLive")(b"") == b""
        stub: Any = auth_pb2_grpc.AuthServiceStub(channel)
        assert (await stub.GetJwks(auth_pb2.GetJwksRequest())).keys


async def test_the_health_of_what_the_gateway_does_not_know(world: World) -> None:
    """It has no services by name; who asks for one is told so."""
    request = health_pb2.HealthCheckRequest(service="lepton.api.auth.v1.AuthService")
    async with world.channel() as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="leave the name empty") as caught:
            await stub.Check(request)
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        assert reason_of(caught.value) == "HEALTH_SERVICE_UNKNOWN"
        watch = stub.Watch(request)
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watch.cancel()


def tokens(world: World) -> dict[str, tuple[dict[str, str], str]]:
    """Case -> (headers, reason)."""

    def bearer(token: str) -> dict[str, str]:
        return {"authorization": f"Bearer {token}"}

    signed = world.key.token()
    none = base64.urlsafe_b64encode(b'{"alg":"none","kid":"first"}').decode().rstrip("=")
    return {
        "none": ({}, "TOKEN_MISSING"),
        "basic": ({"authorization": "Basic YTpi"}, "TOKEN_MISSING"),
        "garbage": (bearer("garbage"), "TOKEN_INVALID"),
        "expired": (bearer(world.key.token(exp=1)), "TOKEN_EXPIRED"),
        "without expiry": (bearer(world.key.token(exp=None)), "TOKEN_INVALID"),
        "other key, same kid": (bearer(SigningKey("first").token()), "TOKEN_INVALID"),
        "unknown kid": (bearer(SigningKey("other").token()), "TOKEN_INVALID"),
        "other audience": (bearer(world.key.token(aud="other")), "TOKEN_INVALID"),
        "other issuer": (bearer(world.key.token(iss="other")), "TOKEN_INVALID"),
        "unsigned": (bearer(f"{none}.{signed.split('.')[1]}."), "TOKEN_INVALID"),
        "unknown api key": ({"x-api-key": api_key("unknown")}, "CREDENTIAL_INVALID"),
        "bad api key": ({"x-api-key": "lpk_bad"}, "CREDENTIAL_INVALID"),
        "empty api key": ({"x-api-key": ""}, "CREDENTIAL_INVALID"),
        "bad api key beside a token": ({**bearer(signed), "x-api-key": "k"}, "CREDENTIAL_INVALID"),
    }


async def test_what_is_not_a_valid_token_is_refused(world: World) -> None:
    """401 and UNAUTHENTICATED with the reason; the services see none of these requests."""
    before = len(world.seen.metadata)
    auth_calls = world.seen.calls.get("auth", 0)
    async with world.http() as http, world.channel() as channel:
        for case, (headers, reason) in tokens(world).items():
            for path in ("/v1/datasets/mnist", "/v2/models/m"):
                response = await http.get(path, headers=headers)
                assert (response.status_code, response.json()["reason"]) == (401, reason), case
                assert response.json()["code"] == 16
                assert response.json()["error"] == response.json()["message"]
            for method in (*MODEL_INFER, "/lepton.api.storage.v1.StorageService/GetDataset"):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await channel.unary_unary(method)(b"", metadata=tuple(headers.items()))
                assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED, case
                assert reason_of(caught.value) == reason, case
        in_url = await http.get(f"/v2/models/m?access_token={world.key.token()}")
        assert in_url.status_code == 401
    asked_auth = world.seen.calls.get("auth", 0) - auth_calls
    assert len(world.seen.metadata) - before == asked_auth


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/nothing/here", None, (404, "UNKNOWN_PATH")),
        ("GET", "/v1/nothing", None, (404, "UNKNOWN_PATH")),
        ("DELETE", "/v1/datasets", None, (404, "UNKNOWN_PATH")),
        ("GET", "/v1/datasets/a?colour=red", None, (400, "INVALID_REQUEST")),
        ("POST", "/v1/datasets", b"{not json", (400, "INVALID_REQUEST")),
        ("GET", "/v1/models", None, (503, "NO_INSTANCE")),
        ("GET", "/v1/%2e%2e%2fhealthz", None, (400, "INVALID_REQUEST")),
        ("GET", "/v1/models/a%00b", None, (400, "INVALID_REQUEST")),
    ],
)
async def test_bad_rest_requests(
    world: World, method: str, path: str, body: bytes | None, expected: tuple[int, str]
) -> None:
    """JSON with a reason, whatever is wrong."""
    status, reason = expected
    async with world.http() as http:
        response = await http.request(method, path, headers=world.bearer(), content=body)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.json()["reason"] == reason
    assert response.json()["message"]
    assert response.json()["details"][0]["reason"] == reason


@pytest.mark.parametrize(
    ("method", "code", "reason"),
    [
        ("/no.such.Service/Method", grpc.StatusCode.UNIMPLEMENTED, "UNKNOWN_PATH"),
        (
            "/lepton.api.auth.v1.CertificateService/RenewCertificate",
            grpc.StatusCode.PERMISSION_DENIED,
            "MESH_ONLY",
        ),
        (
            "/lepton.api.registry.v1.RegistryService/ListModels",
            grpc.StatusCode.UNAVAILABLE,
            "NO_INSTANCE",
        ),
    ],
)
async def test_bad_grpc_requests(
    world: World, method: str, code: grpc.StatusCode, reason: str
) -> None:
    """A status with a reason, whatever is wrong."""
    async with world.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(method)(b"", metadata=tuple(world.bearer().items()))
    assert (caught.value.code(), reason_of(caught.value)) == (code, reason)


async def test_a_missing_service_is_named(world: World) -> None:
    """So that the reader of the error knows what to start."""
    async with world.channel() as channel:
        stub: Any = registry_pb2_grpc.RegistryServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError, match="registry service has no instance"):
            await stub.ListModels(
                registry_pb2.ListModelsRequest(), metadata=tuple(world.bearer().items())
            )


async def test_an_api_key_becomes_a_token(world: World) -> None:
    """Services see the token and never the key, and the key is exchanged once for many requests."""
    before = world.auth.exchanges
    headers = {"x-api-key": GOOD_KEY}
    async with world.http() as http, world.channel() as channel:
        for _ in range(5):
            assert (await http.get("/v1/datasets/k", headers=headers)).status_code == 200
            assert "x-api-key" not in world.seen.metadata[-1]
            assert world.seen.metadata[-1]["authorization"].startswith("Bearer ey")
            call = channel.unary_unary(MODEL_INFER[0])
            assert await call(b"x", metadata=tuple(headers.items())) == b"x"
            assert "x-api-key" not in world.seen.metadata[-1]
    assert world.auth.exchanges - before == 1


async def test_made_up_keys_of_one_address_keep_nobody_else_out(world: World) -> None:
    """What is checked for one address at a time is bounded; of others keys are exchanged."""
    world.auth.gate.clear()
    before = world.seen.calls.get("auth", 0)
    world.auth.known.add(api_key("theirs"))
    async with world.http() as http, world.http(local_address="127.0.0.2") as other:
        tasks = [
            asyncio.create_task(
                http.get("/v1/datasets/a", headers={"x-api-key": api_key(f"made-up-{number}")})
            )
            for number in range(MAX_RUNNING_PER_ADDRESS)
        ]
        await until(lambda: world.seen.calls.get("auth", 0) == before + MAX_RUNNING_PER_ADDRESS)
        beyond = await http.get("/v1/datasets/a", headers={"x-api-key": api_key("one more")})
        assert (beyond.status_code, beyond.json()["reason"]) == (429, "RATE_LIMITED")
        served = await other.get("/v1/datasets/a", headers={"x-api-key": api_key("theirs")})
        assert served.status_code == 200
        world.auth.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {401}


async def test_the_access_log_holds_no_credential(world: World) -> None:
    """Neither tokens, nor keys, nor what somebody put into a URL."""
    async with world.http() as http:
        await http.get(
            "/v1/datasets/logged?api_key=in-url", headers={"x-api-key": api_key("secret")}
        )
        await http.get("/v1/datasets/logged", headers=world.bearer())
        await http.get("/v1/datasets/last-logged", headers=world.bearer())
    text = ""
    async with asyncio.timeout(30):
        while not any(json.loads(line)["path"].endswith("/last-logged") for line in lines(text)):
            # Envoy flushes its log in intervals, and when it is asked to open it anew.
            assert world.gateway is not None
            await world.gateway.envoy._admin.post("/reopen_logs")
            await asyncio.sleep(0.02)
            text = (world.state_dir / "access.log").read_text()
    paths = [json.loads(line)["path"] for line in lines(text)]
    assert paths.count("/v1/datasets/logged") == 2
    for secret in ("lpk_", "in-url", "Bearer", "eyJ"):
        assert secret not in text


def lines(text: str) -> list[str]:
    """Those that are whole; the last one may be in the middle of being written."""
    return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


async def test_plain_http_is_refused(world: World) -> None:
    """The port speaks TLS only."""
    async with httpx.AsyncClient() as http:
        with pytest.raises(httpx.TransportError):
            await http.get(f"http://{world.address}/healthz")
