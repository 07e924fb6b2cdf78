"""Access tokens: got with a longer-lived credential, renewed before they run out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import grpc

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton.api.auth.v1.auth_pb2_grpc import AuthServiceStub
from lepton.client.errors import translated
from lepton.client.profile import Profile

_RENEW_BEFORE_SECONDS = 60.0


Exchange = Callable[[Callable[[str], str]], None]
"""Is given a function from a refresh token to the one that replaces it; calls it once."""


class TokenSource:
    """Gives an access token that holds for at least another minute.

    Args:
        channel: A channel without this source's own tokens on it.
        profile: Whose credential is traded.
        exchange: Where the refresh token lies. A refresh token works once, so a caller that
            keeps profiles must keep its replacement; see
            :func:`lepton.client.profile.exchange_refresh_token`. By default it lies in
            this object only.

    Thread-safe.
    """

    def __init__(
        self, channel: grpc.Channel, profile: Profile, exchange: Exchange | None = None
    ) -> None:
        self._stub = AuthServiceStub(channel)
        self._profile = profile
        self._exchange = exchange or self._exchange_own
        self._refresh_token = profile.refresh_token
        self._lock = threading.Lock()
        self._token = ""
        self._expires = 0.0

    def token(self) -> str:
        """Returns an access token; empty when the profile has no credential.

        Raises:
            AuthenticationError: The credential does not hold any more.
            ApiError: The gateway could not be asked.
        """
        if not (self._profile.api_key or self._profile.refresh_token):
            return ""
        with self._lock:
            if time.time() >= self._expires - _RENEW_BEFORE_SECONDS:
                if self._profile.api_key:
                    self._issue(pb.IssueTokenRequest(api_key=self._profile.api_key))
                else:
                    self._exchange(self._trade)
            return self._token

    def _trade(self, refresh_token: str) -> str:
        return self._issue(pb.IssueTokenRequest(refresh_token=refresh_token)).refresh_token

    def _issue(self, request: pb.IssueTokenRequest) -> pb.IssueTokenResponse:
        request.workspace = self._profile.workspace
        with translated():
            answer = self._stub.IssueToken(request, timeout=30)
        self._token = answer.access_token
        self._expires = answer.expire_time.seconds
        return answer

    def _exchange_own(self, trade: Callable[[str], str]) -> None:
        self._refresh_token = trade(self._refresh_token)


class _CallDetails(NamedTuple):
    """The fields gRPC reads; it offers no public class to build one from."""

    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class BearerInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Puts ``authorization: Bearer <token>`` on every call.

    An interceptor rather than call credentials: a failed renewal is raised to the caller
    as what it is, where gRPC would say "getting metadata from plugin failed".
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def _signed(self, details: Any) -> _CallDetails:
        metadata = list(details.metadata or ())
        if token := self._source.token():
            metadata.append(("authorization", f"Bearer {token}"))
        return _CallDetails(
            details.method,
            details.timeout,
            metadata,
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )

    # gRPC's four shapes differ in nothing that matters here; its types are `Any` in effect.
    def intercept_unary_unary(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._signed(client_call_details), request)

    def intercept_unary_stream(
        self, continuation: Any, client_call_details: Any, request: Any
    ) -> Any:
        return continuation(self._signed(client_call_details), request)

    def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(self._signed(client_call_details), request_iterator)

    def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        return continuation(self._signed(client_call_details), request_iterator)
