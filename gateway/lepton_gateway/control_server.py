"""What Envoy asks the control plane, over a Unix socket: API keys, bodies, grpc.health.v1."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lepton_gateway.envoy.filters import API_KEY_HEADER, CHECK_BODY, CHECK_HEADER
from lepton_gateway.exchange import ApiKeyExchange
from lepton_gateway.ext_authz.v3 import ext_authz_pb2 as ext_authz
from lepton_gateway.rest_bodies import RestBodies
from lepton_mesh.errors import InvalidArgument, LeptonError, ResourceExhausted
from lepton_mesh.health import Health
from lepton_mesh.interceptors.status import (
    DETAILS_KEY,
    STATUS_BY_NUMBER,
    public_message,
    to_status,
)

_CHECK_SERVICE = "envoy.service.auth.v3.Authorization"
_OVERWRITE = 2


class ControlServer:
    """A gRPC server on ``socket`` that only this user can open (its directory has mode 0700).

    It has none of the mesh's interceptors: the one client is our own Envoy.
    """

    def __init__(self, socket: Path, exchange: ApiKeyExchange) -> None:
        self._exchange = exchange
        self._bodies = RestBodies()
        self.health = _Health(())
        """What grpc.health.v1 answers at the gateway, which is one service without a name."""
        self._server = grpc.aio.server()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        check = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=ext_authz.CheckRequest.FromString,
            response_serializer=ext_authz.CheckResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(_CHECK_SERVICE, {"Check": check}),)
        )
        socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{socket}")

    async def start(self) -> None:
        await self._server.start()

    async def close(self) -> None:
        await self._server.stop(grace=0.5)
        # The server knows us by its handlers. In that cycle it would outlive this, and gRPC's
        # core waits two seconds at the end of the process for a server that is still in memory.
        del self._server

    async def _check(
        self, request: ext_authz.CheckRequest, context: Any
    ) -> ext_authz.CheckResponse:
        if (CHECK_HEADER, CHECK_BODY) in (context.invocation_metadata() or ()):
            return self._check_body(request.attributes.request.http)
        key = request.attributes.request.http.headers.get(API_KEY_HEADER, "")
        address = request.attributes.source.address.socket_address.address
        try:
            token = await self._exchange.token(key, address)
        except LeptonError as error:
            return _denied(error)
        return ext_authz.CheckResponse(
            status=ext_authz.Status(code=0),
            ok_response=ext_authz.OkHttpResponse(
                headers=[_header("authorization", f"Bearer {token}")],
                headers_to_remove=[API_KEY_HEADER],
            ),
        )

    def _check_body(self, request: Any) -> ext_authz.CheckResponse:
        try:
            self._bodies.check(request.method, request.path, request.raw_body)
        except LeptonError as error:
            return _denied(error)
        return ext_authz.CheckResponse(status=ext_authz.Status(code=0))


class _Health(Health):
    async def Check(  # noqa: N802  gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        try:
            return await super().Check(request, context)
        except LeptonError as error:
            details = (DETAILS_KEY, to_status(error).SerializeToString())
            code = STATUS_BY_NUMBER[error.wire.grpc_code]
            await context.abort(code, public_message(error), (details,))
            raise


def _denied(error: LeptonError) -> ext_authz.CheckResponse:
    """The status decides what the caller reads (envoy/replies.py): a wrong body, no key, too many,
    or no auth."""
    status = HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, ResourceExhausted):
        status = HTTPStatus.TOO_MANY_REQUESTS
    elif isinstance(error, InvalidArgument):
        status = HTTPStatus.BAD_REQUEST
    elif error.wire.http_status < HTTPStatus.INTERNAL_SERVER_ERROR:
        status = HTTPStatus.UNAUTHORIZED
    return ext_authz.CheckResponse(
        status=ext_authz.Status(code=error.wire.grpc_code, message=error.message),
        denied_response=ext_authz.DeniedHttpResponse(
            status=ext_authz.HttpStatus(code=status.value), body=public_message(error)
        ),
    )


def _header(name: str, value: str) -> ext_authz.HeaderValueOption:
    return ext_authz.HeaderValueOption(
        header=ext_authz.HeaderValue(key=name, value=value), append_action=_OVERWRITE
    )
