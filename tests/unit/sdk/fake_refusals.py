"""How fakes end a call: as the services do."""

from __future__ import annotations

from typing import NoReturn

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status


def refuse(
    context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, message: str, **facts: str
) -> NoReturn:
    """Ends a call as the services do: a status with an ErrorInfo."""
    info = AnyMessage()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="lepton.dev", metadata=facts))
    status = status_pb2.Status(code=code.value[0], message=message, details=[info])
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError("abort_with_status raises")


def not_found(context: grpc.ServicerContext, name: str) -> NoReturn:
    refuse(context, grpc.StatusCode.NOT_FOUND, "NOT_FOUND", f"{name} does not exist")
