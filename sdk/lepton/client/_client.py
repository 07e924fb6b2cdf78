"""The SDK's one door: a profile in, typed calls out."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from lepton.api.auth.v1.auth_pb2_grpc import AuthServiceStub
from lepton.api.inference.v1.inference_pb2_grpc import InferenceServiceStub
from lepton.api.registry.v1.registry_pb2_grpc import RegistryServiceStub
from lepton.api.storage.v1.storage_pb2_grpc import StorageServiceStub
from lepton.api.training.v1.training_pb2_grpc import TrainingServiceStub
from lepton.client.credentials import BearerInterceptor, Exchange, TokenSource
from lepton.client.data import DataClient
from lepton.client.endpoints import EndpointClient
from lepton.client.errors import ProfileError
from lepton.client.jobs import JobClient
from lepton.client.models import ModelClient
from lepton.client.profile import (
    Profile,
    current_profile,
    exchange_refresh_token,
    gateway_address,
    load_profile,
)
from lepton.oip.v2.open_inference_pb2_grpc import GRPCInferenceServiceStub

if TYPE_CHECKING:
    from lepton.api.registry.v1 import registry_pb2
    from lepton.client.explanations import Explanation

_ABANDON_SECONDS = 1.0
_MAX_MESSAGE_BYTES = 64 * 1024 * 1024
_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
]


def connect(
    profile: str = "",
    *,
    address: str = "",
    ca_file: str | Path = "",
    api_key: str = "",
    workspace: str = "",
) -> Client:
    """Opens a client for a saved profile, or for an address given here.

    Args:
        profile: Name of a saved profile; the current one by default.
        address: Gateway, ``host:port``; nothing is read from disk when given.
        ca_file: Root certificate to trust; the system's roots when empty.
        api_key: Credential to use in place of the profile's.
        workspace: Workspace id to work in, in place of the profile's.

    Raises:
        ProfileError: There is no such profile, its CA file cannot be read, or ``address`` is
            none.
    """
    exchange = None
    if address:
        chosen = Profile(address=gateway_address(address))
    else:
        name = profile or current_profile()
        chosen = load_profile(name)
        exchange = partial(exchange_refresh_token, name)
    chosen = replace(
        chosen,
        ca_file=str(ca_file) or chosen.ca_file,
        api_key=api_key or chosen.api_key,
        workspace=workspace or chosen.workspace,
    )
    return Client(chosen, exchange=exchange)


class Client:
    """Calls a Lepton gateway. Close it, or use it in a ``with`` block. Thread-safe.

    Args:
        profile: Where to call, and as whom.
        exchange: Where the profile's refresh token lies, when it lies anywhere.

    Attributes:
        data: Datasets and artifacts.
        jobs: Training.
        models: The registry.
        endpoints: Serving, and predictions.
        auth, storage, training, registry, inference, open_inference: the generated stubs,
            for whatever the facade leaves out. They raise ``grpc.RpcError``.
    """

    def __init__(self, profile: Profile, *, exchange: Exchange | None = None) -> None:
        self.profile = profile
        self._plain = grpc.secure_channel(profile.address, _credentials(profile), _OPTIONS)
        self.tokens = TokenSource(self._plain, profile, exchange)
        self.channel = grpc.intercept_channel(self._plain, BearerInterceptor(self.tokens))
        self.auth = AuthServiceStub(self.channel)
        self.storage = StorageServiceStub(self.channel)
        self.training = TrainingServiceStub(self.channel)
        self.registry = RegistryServiceStub(self.channel)
        self.inference = InferenceServiceStub(self.channel)
        self.open_inference = GRPCInferenceServiceStub(self.channel)
        self.data = DataClient(self.storage)
        self.jobs = JobClient(self.training)
        self.models = ModelClient(self.registry, self.storage)
        self.endpoints = EndpointClient(self.inference, self.open_inference)

    def explain(
        self,
        version: registry_pb2.ModelVersion,
        row: Any,
        *,
        baseline: Any = None,
        target: str = "",
        budget: int = 2000,
        seed: int = 0,
    ) -> Explanation:
        """What makes a version answer a row as it does: Shapley values of the row's parts.

        An endpoint that serves the version is asked about the row with some of its parts absent:
        numbers and categories, for which the baseline's stand; the words of a text, which are left
        out; the patches of an image, which are black.

        Args:
            version: As ``models.version`` returned it.
            row: Values by input name, or the value alone where there is one input: plain values,
                nested lists or arrays, without a batch or with one of one row.
            baseline: As ``row``; the one kept with the version where None. Texts and images need
                none.
            target: The class whose probability is explained; the predicted one if empty. Without
                class names the place of a number in the output, or their mean.
            budget: Most rows to ask about, though at least 4 for each part. Values are exact where
                that is enough for every choice of parts, else of random orders of them.
            seed: Of the orders.

        Raises:
            ApiError: The endpoint did not answer.
            EvaluationError: No endpoint serves the version, or it has no baseline or such class.
            TensorError: The row does not go with the version.
        """
        from lepton.client import explanations  # noqa: PLC0415  numpy takes 0.1 s to import

        return explanations.explain(
            self.models,
            self.endpoints,
            version,
            row,
            baseline=baseline,
            target=target,
            budget=budget,
            seed=seed,
        )

    def close(self) -> None:
        """Closes the channel; calls in flight are cancelled."""
        self._plain.close()

    def _abandon(self) -> None:
        """Closes the channel, or after a second leaves it to the end of the process.

        gRPC's close waits until each call is reported as ended, by a thread that is started
        with the first call. Ctrl-C in between leaves a call that nobody reports.
        """
        closing = threading.Thread(target=self.close, daemon=True)
        closing.start()
        closing.join(_ABANDON_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, Exception):
            self.close()
        else:  # Ctrl-C, which may have hit gRPC anywhere
            self._abandon()


def _credentials(profile: Profile) -> grpc.ChannelCredentials:
    if not profile.ca_file:
        return grpc.ssl_channel_credentials()
    remedy = "`lepton up` writes it, `lepton login` takes it with --ca-file"
    try:
        roots = Path(profile.ca_file).read_bytes()
    except OSError as error:
        raise ProfileError(
            f"the CA file {profile.ca_file} cannot be read ({error.strerror}); {remedy}"
        ) from None
    # gRPC would take it, and fail at every handshake without saying why.
    if b"-----BEGIN CERTIFICATE-----" not in roots:
        raise ProfileError(f"the CA file {profile.ca_file} holds no PEM certificate; {remedy}")
    return grpc.ssl_channel_credentials(roots)
