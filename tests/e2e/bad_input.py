"""A stack to send bad input to, and the ways to send it."""

from __future__ import annotations

import json
import shutil
import ssl
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import jwt
import numpy as np
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton.client import Client
from lepton.client.tensors import infer_request
from lepton.oip.v2 import open_inference_pb2 as oip
from tests.e2e.conftest import Command


@dataclass
class World:
    """A stack with a model behind the endpoint ``bad``, and ways to call it."""

    command: Command
    client: Client
    digits: Path
    scratch: Path

    def infer(
        self,
        *,
        model: str = "bad",
        image: Any = None,
        change: Callable[[oip.ModelInferRequest], None] = lambda _: None,
        token: str | None = None,
    ) -> None:
        """Sends one prediction over gRPC, with ``token`` in place of the right one."""
        image = np.zeros((1, 8, 8), np.uint8) if image is None else image
        request = infer_request(model, {"images": image})
        change(request)
        if token is None:
            self.client.open_inference.ModelInfer(request, timeout=20)
            return
        with self.plain() as channel:
            call = channel.unary_unary(
                "/inference.GRPCInferenceService/ModelInfer",
                request_serializer=oip.ModelInferRequest.SerializeToString,
                response_deserializer=oip.ModelInferResponse.FromString,
            )
            metadata = [("authorization", f"Bearer {token}")] if token else []
            call(request, timeout=20, metadata=metadata)

    @contextmanager
    def plain(self) -> Iterator[grpc.Channel]:
        """A channel to the gateway that carries no token."""
        profile = self.client.profile
        root = Path(profile.ca_file).read_bytes()
        with grpc.secure_channel(profile.address, grpc.ssl_channel_credentials(root)) as channel:
            yield channel

    def http(
        self, path: str, body: Any = None, token: str | None = None, method: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Sends one REST request; returns status and JSON."""
        token = self.client.tokens.token() if token is None else token
        profile = self.client.profile
        request = urllib.request.Request(  # https, to our own gateway
            f"https://{profile.address}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {token}"} if token else {}),
            method=method,
        )
        context = ssl.create_default_context(cafile=profile.ca_file)
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def idx(self, **changes: bytes | None) -> Path:
        """A folder with the digits, some files replaced (bytes) or left out (None)."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        for path in self.digits.iterdir():
            shutil.copy(path, folder)
        names = {
            "train_images": "train-images-idx3-ubyte.gz",
            "train_labels": "train-labels-idx1-ubyte.gz",
        }
        for key, content in changes.items():
            target = folder / names[key]
            target.unlink() if content is None else target.write_bytes(content)
        return folder

    def request(self) -> Path:
        """A prediction request for one blank image."""
        path = self.scratch / "request.json"
        tensor = {"name": "images", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}
        path.write_text(json.dumps({"inputs": [tensor]}))
        return path

    def spec(self, **changes: Any) -> Path:
        """A job spec that would be right, but for the changes."""
        spec = {
            "recipe": "mlp",
            "dataset": "datasets/session/versions/latest",
            "model": "models/session",
            **changes,
        }
        path = self.scratch / f"{time.monotonic_ns()}.yaml"
        path.write_text(yaml.safe_dump(spec))
        return path


def rest_infer(
    world: World, model: str = "bad", token: str | None = None, **changes: Any
) -> tuple[int, dict[str, Any]]:
    tensor = {"name": "images", "shape": [1, 8, 8], "datatype": "UINT8", "data": [0] * 64}
    return world.http(f"/v2/models/{model}/infer", {"inputs": [tensor | changes]}, token)


def truncate(request: oip.ModelInferRequest) -> None:
    request.raw_input_contents[0] = bytes(63)


def huge(request: oip.ModelInferRequest) -> None:
    request.inputs[0].shape[:] = [1 << 40, 8, 8]


def negative(request: oip.ModelInferRequest) -> None:
    request.inputs[0].shape[:] = [-1, 8, 8]


def rename(request: oip.ModelInferRequest) -> None:
    request.inputs[0].name = "pictures"


def make_token(key: ec.EllipticCurvePrivateKey | str, kid: str = "foreign", **changes: Any) -> str:
    now = datetime.now(UTC)
    claims = {
        "iss": "lepton",
        "aud": "lepton",
        "sub": "users/admin",
        "kind": "user",
        "ws": "default",
        "role": "admin",
        "iat": now - timedelta(hours=2),
        "exp": now + timedelta(hours=1),
        "jti": "x",
        **changes,
    }
    algorithm = "HS256" if isinstance(key, str) else "ES256"
    return jwt.encode(claims, key, algorithm, headers={"kid": kid})


FOREIGN = make_token(ec.generate_private_key(ec.SECP256R1()))
UNSIGNED = make_token("a secret that is long enough for the algorithm")


def address(world: World, service: str) -> str:
    (found,) = (
        each["address"]
        for each in world.command.json("status")["instances"]
        if each["service"] == service
    )
    return str(found)


def list_models(world: World, answering: str, certificate_of: str | None) -> None:
    """Asks whoever is at ``answering``'s address for the registry's models, as a service."""
    root = (world.command.home / "ca.pem").read_bytes()
    pair: list[bytes] = []
    if certificate_of is not None:
        files = world.command.home / certificate_of / "identity"
        pair = [(files / name).read_bytes() for name in ("key.pem", "cert.pem")]
    with grpc.secure_channel(
        address(world, answering),
        grpc.ssl_channel_credentials(root, *pair),
        [("grpc.ssl_target_name_override", "registry.lepton.internal")],
    ) as channel:
        registry_pb2_grpc.RegistryServiceStub(channel).ListModels(
            registry_pb2.ListModelsRequest(),
            timeout=10,
            metadata=[("x-lepton-workspace", "default")],
        )


def expired(world: World) -> str:
    """A token that this stack's own key signed, and that ran out an hour ago."""
    keys = json.loads((world.command.home / "auth" / "signing-keys.json").read_text())["keys"]
    key = serialization.load_pem_private_key(keys[0]["private_pem"].encode(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return make_token(key, kid=keys[0]["kid"], exp=datetime.now(UTC) - timedelta(hours=1))
