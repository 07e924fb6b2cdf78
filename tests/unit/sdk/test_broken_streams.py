"""A service that dies in mid-answer has not answered."""

from __future__ import annotations

from concurrent import futures

import grpc
import pytest

from lepton.client import UnavailableError
from lepton.client.errors import translated


def test_internal_without_a_reason_came_from_the_transport() -> None:
    """Services give each error an ErrorInfo; what lacks one may be asked again."""

    class Dies(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
                context.abort(grpc.StatusCode.INTERNAL, "Stream removed")

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers([Dies()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with (
            grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
            pytest.raises(UnavailableError, match="the connection broke: Stream removed"),
            translated(),
        ):
            channel.unary_unary("/any/Method")(b"")
    finally:
        server.stop(None).wait()
