"""The fallback's server: its connections, what it holds, and what it says of its callers."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.budget import PUBLIC_BODY_BYTES, Budget, Held
from lepton_inference.gate import FORWARDED_CERTIFICATE, PEER_SERIAL
from lepton_inference.grpc_port import GrpcPort
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.open_inference import SERVICES, OpenInference
from lepton_inference.serving import Admitted, Served, Serving, ServingState
from lepton_inference.settings import ModelSettings
from lepton_mesh.claims import TokenInvalid
from lepton_mesh.peers import Denylist, PeerCheck
from lepton_mesh.pki import CertificateAuthority, Credentials, Names, serial_hex
from lepton_mesh.spiffe import SpiffeId
from tests.unit.inference.test_asgi import HeldSession, OpenGate


class NoGate:
    """Nobody calls."""

    known: Any = None
    admit: Any = None


async def test_a_connection_does_not_outlive_its_age() -> None:
    """Clients are told to connect anew, so that their certificates are looked at again."""
    port = GrpcPort(
        OpenInference(Serving()), NoGate(), lambda _: None, 1 << 20, max_connection_age_seconds=0.1
    )
    address = await port.start(None, "127.0.0.1", 0)
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 10)
    await port.stop(0)


class Port:
    """A port over one model that is held, which holds at most 1000 bytes of requests."""

    def __init__(self) -> None:
        self.session, serving = HeldSession(), Serving()
        self.model = LoadedModel(ModelSource("m", "1", "test", ""), self.session, ModelSettings())
        serving.put("w", Served("m", ServingState.READY, models=[self.model], weights=[1]))
        self.port = GrpcPort(
            OpenInference(serving),
            OpenGate(serving),
            lambda _: None,
            1 << 20,
            max_bytes_in_flight=1000,
        )

    async def __aenter__(self) -> grpc.aio.Channel:
        self.channel = grpc.aio.insecure_channel(await self.port.start(None, "127.0.0.1", 0))
        return self.channel

    async def __aexit__(self, *_: object) -> None:
        self.session.go_on.set()
        await self.channel.close()
        await self.port.stop(10)
        await self.model.close()
        assert self.port._budget.held == 0


def method(name: str) -> str:
    return f"/{SERVICES[0]}/{name}"


def ask(size: int = 600) -> bytes:
    """A request of about so many bytes."""
    return pb.ModelInferRequest(
        model_name="m",
        id="x" * size,
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])],
        raw_input_contents=[np.ones((1, 2), np.float32).tobytes()],
    ).SerializeToString()


def reason(error: grpc.aio.AioRpcError) -> str:
    details = dict(error.trailing_metadata() or ())["grpc-status-details-bin"]
    info = error_details_pb2.ErrorInfo()
    status_pb2.Status.FromString(details).details[0].Unpack(info)
    return info.reason


async def test_requests_beyond_what_may_be_held_are_refused() -> None:
    """The second caller is told to come again; the first is answered, and gives its room back."""
    held = Port()
    async with held as channel:
        infer = channel.unary_unary(method("ModelInfer"))
        first = infer(ask())
        await asyncio.to_thread(held.session.begun.wait, 10)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await infer(ask())
        assert reason(caught.value) == "BODIES_TOO_MANY"
        held.session.go_on.set()
        await first
        await infer(ask())


async def test_requests_of_a_stream_count_as_well() -> None:
    """What was begun is answered before the stream ends with the refusal."""
    held = Port()
    async with held as channel:
        infer = channel.unary_unary(method("ModelInfer"))
        call = channel.stream_stream(method("ModelStreamInfer"))()
        await call.write(ask(400))
        await asyncio.to_thread(held.session.begun.wait, 10)
        with pytest.raises(grpc.aio.AioRpcError):
            await infer(ask())
        await call.write(ask(1200))
        await call.done_writing()
        held.session.go_on.set()
        answer = pb.ModelStreamInferResponse.FromString(await call.read())
        assert answer.infer_response.model_name == "m"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert reason(caught.value) == "BODIES_TOO_MANY"


async def test_an_answered_stream_gives_its_room_back() -> None:
    """More goes through it than may be held at once."""
    held = Port()
    held.session.go_on.set()
    async with held as channel:
        call = channel.stream_stream(method("ModelStreamInfer"))()
        for _ in range(3):
            await call.write(ask())
            answer = pb.ModelStreamInferResponse.FromString(await call.read())
            assert not answer.error_message
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF


async def test_who_need_not_say_who_they_are_sends_little() -> None:
    """Anybody in the mesh may ask whether the server lives."""
    async with Port() as channel:
        live = channel.unary_unary(method("ServerLive"))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await live(bytes(PUBLIC_BODY_BYTES + 1))
        assert reason(caught.value) == "MESSAGE_TOO_LARGE"


class SlowGate(OpenGate):
    """Takes until it is told to refuse everybody."""

    def __init__(self, serving: Serving) -> None:
        super().__init__(serving)
        self.asked = asyncio.Semaphore(0)
        self.refuse = asyncio.Event()

    def known(self, headers: dict[bytes, bytes]) -> Admitted | None:
        return None

    async def admit(self, method: str, headers: dict[bytes, bytes]) -> Admitted:
        self.asked.release()
        await self.refuse.wait()
        raise TokenInvalid("the token is not valid")


async def test_requests_count_before_it_is_known_who_sent_them() -> None:
    """Callers whose tokens are still looked at hold no more than others; refused, nothing."""
    held = Port()
    gate = SlowGate(Serving())
    held.port._gate = gate
    async with held as channel:
        infer, live = (channel.unary_unary(method(name)) for name in ("ModelInfer", "ServerLive"))
        first = infer(ask())
        async with asyncio.timeout(10):
            await gate.asked.acquire()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(ask(), timeout=5)
            assert reason(caught.value) == "BODIES_TOO_MANY"
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await live(bytes(PUBLIC_BODY_BYTES + 1), timeout=5)
            assert reason(caught.value) == "MESSAGE_TOO_LARGE"
            gate.refuse.set()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await first
        assert reason(caught.value) == "TOKEN_INVALID"


async def test_open_calls_are_bounded() -> None:
    """The next is refused unread, streams counting as much as others, until one is over."""
    gate = SlowGate(Serving())
    port = GrpcPort(OpenInference(Serving()), gate, lambda _: None, 1 << 20, max_calls=2)
    channel = grpc.aio.insecure_channel(await port.start(None, "127.0.0.1", 0))
    try:
        infer = channel.unary_unary(method("ModelInfer"))
        first = [infer(b""), channel.stream_stream(method("ModelStreamInfer"))()]
        async with asyncio.timeout(10):
            for _ in first:
                await gate.asked.acquire()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await infer(b"", timeout=5)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert gate.asked.locked()  # nobody asked it
    finally:
        gate.refuse.set()
        await channel.close()
        await port.stop(0)


def test_what_was_given_back_stays_so() -> None:
    """A request of a stream that is answered after the stream's end counts nothing again."""
    budget = Budget(100)
    held = Held(budget)
    held.add(60)
    held.keep(20)
    assert budget.held == 20
    held.release()
    held.keep(20)
    assert budget.held == 0


class NotingGate(OpenGate):
    """Admits everybody, and notes what it was told of them."""

    def __init__(self, serving: Serving) -> None:
        super().__init__(serving)
        self.told: dict[bytes, bytes] = {}

    async def admit(self, method: str, headers: dict[bytes, bytes]) -> Admitted:
        self.told = headers
        return await super().admit(method, headers)


async def test_a_callers_certificate_is_named_by_its_serial() -> None:
    """By the one that was shown, whatever the client says: regions of memory go when it does."""
    authority = CertificateAuthority.create_root("test.local").create_intermediate()
    own, peer = (
        authority.issue_credentials(
            Names(SpiffeId.for_service("test.local", name), ip_addresses=("127.0.0.1",))
        )
        for name in ("inference", "training")
    )
    gate = NotingGate(Serving())
    check = PeerCheck("test.local", Denylist())
    port = GrpcPort(OpenInference(Serving()), gate, check, 1 << 20)
    pair = [(own.private_key_pem, own.certificate_chain_pem)]
    credentials = grpc.ssl_server_credentials(pair, own.trust_bundle_pem, require_client_auth=True)
    address = await port.start(credentials, "127.0.0.1", 0)
    async with grpc.aio.secure_channel(address, _client(peer)) as channel:
        ready = channel.unary_unary(method("ModelReady"))
        await ready(b"", metadata=((PEER_SERIAL.decode(), "77"),))
    await port.stop(0)
    assert gate.told[PEER_SERIAL].decode() == serial_hex(peer.leaf)
    assert gate.told[FORWARDED_CERTIFICATE] == b"URI=spiffe://test.local/svc/training"


def _client(peer: Credentials) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        peer.trust_bundle_pem, peer.private_key_pem, peer.certificate_chain_pem
    )
