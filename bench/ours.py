"""Our servers as targets, and the limits on both sides of them.

``bare grpc.aio`` answers with a constant, which is what any Python gRPC server must do;
``onnxruntime`` runs the model in a loop, without any server.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import onnxruntime
import trustme

from bench.data_plane import data_plane
from bench.load import Load
from bench.target import (
    INPUT,
    Model,
    Target,
    binary_numbers,
    grpc_target,
    json_numbers,
    rest_target,
)
from lepton.client import Client
from lepton_inference.envoy import MutualTls
from lepton_inference.settings import BatchingSettings

SERVER = "lepton"
BARE = "bare grpc.aio"
IN_PROCESS = "onnxruntime"
GRPC, TLS, GATEWAY = "grpc", "grpc TLS", "grpc gateway"
REST_BINARY, REST_JSON = "rest binary", "rest json"
_HOST = "inference.lepton.internal"
_MOST_JSON_BYTES = 1 << 20
"""A model whose input is larger as JSON is not asked in JSON: nobody would."""


@contextlib.asynccontextmanager
async def direct(models: Sequence[Model], protocols: Sequence[str]) -> AsyncIterator[list[Target]]:
    """Our data plane without TLS: targets of each model in each of the protocols."""
    async with data_plane({model.name: model.path for model in models}) as (address, _):
        yield [
            plain_target(model, address, protocol)
            for model in models
            for protocol in protocols
            if protocol != REST_JSON or len(model.rest_json()[0]) <= _MOST_JSON_BYTES
        ]


def plain_target(model: Model, address: str, protocol: str, server: str = SERVER) -> Target:
    """A model of a data plane without TLS, in one of its protocols."""
    if protocol == GRPC:
        with grpc.insecure_channel(address) as channel:
            return grpc_target(server, model, address, channel, right=server != BARE)
    url = f"http://{address}/v2/models/{model.name}/infer"
    if protocol == REST_BINARY:
        body, numbers = model.rest_binary(), binary_numbers
    else:
        body, numbers = model.rest_json(), json_numbers
    return rest_target(server, model, url, body, protocol=protocol, numbers=numbers)


@contextlib.asynccontextmanager
async def direct_tls(models: Sequence[Model]) -> AsyncIterator[list[Target]]:
    """Our data plane behind TLS, as the gateway and the mesh reach it.

    h2load has no client certificate, so the server does not ask for one here. That is a
    matter of the handshake, which comes once a connection and not once a request.
    """
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    leaf = authority.issue_cert(_HOST, "127.0.0.1", key_type=trustme.KeyType.ECDSA)
    with tempfile.TemporaryDirectory(prefix="lepton-") as directory:
        folder = Path(directory)
        files = MutualTls(folder / "cert.pem", folder / "key.pem", folder / "ca.pem", "bench")
        leaf.private_key_pem.write_to_path(str(files.key))
        files.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
        authority.cert_pem.write_to_path(str(files.trust_bundle))
        credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        served = {model.name: model.path for model in models}
        async with data_plane(served, files, ask_for_certificate=False) as (address, _):
            with grpc.secure_channel(address, credentials) as channel:
                yield [
                    grpc_target(SERVER, model, address, channel, protocol=TLS, scheme="https")
                    for model in models
                ]


def gateway(lepton: Client, models: Sequence[Model]) -> list[Target]:
    """Our gateway, TLS and a token with each request, in front of a stack's endpoints."""
    return [
        grpc_target(
            SERVER,
            model,
            lepton.profile.address,
            lepton.channel,
            protocol=GATEWAY,
            scheme="https",
            headers=lambda: {"authorization": f"Bearer {lepton.tokens.token()}"},
        )
        for model in models
    ]


@contextlib.contextmanager
def bare(model: Model) -> Iterator[Target]:
    """The bare grpc.aio server, asked as if it had the model."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.bare_grpc_aio_server"],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C is for the program that ends this one
    )
    try:
        assert process.stdout is not None
        yield plain_target(model, process.stdout.readline().strip(), GRPC, BARE)
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True, slots=True)
class InProcess:
    """``session.run`` in a loop, with a batch of what is in flight, as large as ours may be."""

    rows: Model
    server: str = IN_PROCESS
    protocol: str = "none"

    @property
    def model(self) -> str:
        return self.rows.name

    def load(self, in_flight: int, seconds: float) -> Load:
        """See :class:`bench.rounds.Loadable`."""
        session = onnxruntime.InferenceSession(self.rows.path, providers=["CPUExecutionProvider"])
        batch = min(in_flight, BatchingSettings().max_rows)
        feeds = {INPUT: self.rows.rows(batch)}
        session.run(None, feeds)
        durations = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            began = time.perf_counter()
            session.run(None, feeds)
            durations.append(1000 * (time.perf_counter() - began))
        return Load(
            batch * len(durations) / (sum(durations) / 1000),
            float(np.percentile(durations, 50)),
            float(np.percentile(durations, 99)),
        )
