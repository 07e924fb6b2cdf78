"""What somebody without a token can make the data plane keep: next to nothing."""

from __future__ import annotations

from typing import Any

import pytest

from lepton_inference.asgi import Application
from lepton_inference.gate import TokenGate
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Serving
from lepton_mesh.claims import Claims, TokenMissing

PEER = b'By=x;URI="spiffe://lepton.local/svc/gateway"'
CHUNK = bytes(65536)


class NoTokens:
    async def verify(self, token: str) -> Claims:
        raise TokenMissing("send a token")


class Endless:
    """A request whose body never ends."""

    def __init__(self, method: str, path: str, content_type: bytes) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": [(b"content-type", content_type), (b"x-forwarded-client-cert", PEER)],
        }
        self.read = 0
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        self.read += len(CHUNK)
        assert self.read < 64 * len(CHUNK), "it goes on reading"
        return {"type": "http.request", "body": CHUNK, "more_body": True}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


@pytest.mark.parametrize(
    ("method", "path", "content_type"),
    [
        ("POST", "/v2/models/m/infer", b"application/json"),
        ("POST", "/v2/health/live", b"application/json"),
        ("GET", "/v2/health/live", b"application/json"),
        ("PUT", "/v2", b"application/json"),
        ("POST", "/inference.GRPCInferenceService/ServerLive", b"application/grpc"),
        ("POST", "/grpc.health.v1.Health/Check", b"application/grpc"),
    ],
)
async def test_an_endless_body_is_not_kept(method: str, path: str, content_type: bytes) -> None:
    serving = Serving()
    gate = TokenGate(serving, NoTokens(), "lepton.local", lambda _: False)
    application = Application(OpenInference(serving), gate, 64 << 20)
    request = Endless(method, path, content_type)
    await application(request.scope, request.receive, request.send)
    assert request.read <= len(CHUNK)
    assert request.sent
