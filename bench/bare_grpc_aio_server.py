"""A bare grpc.aio server that answers ModelInfer with a constant: the yardstick.

It parses the request and serializes an answer of the MLP's size (ten FP32 numbers), which is
what any Python gRPC server must do, and computes nothing.

    python bench/bare_grpc_aio_server.py      # prints host:port, serves until SIGTERM
"""

from __future__ import annotations

import asyncio
import signal
import sys

import grpc
import uvloop

from lepton.oip.v2 import open_inference_pb2 as pb

_ROW_BYTES = 40


async def model_infer(
    request: pb.ModelInferRequest, _: grpc.aio.ServicerContext
) -> pb.ModelInferResponse:
    """Echoes the request's id and rows, with zeros for numbers."""
    rows = request.inputs[0].shape[0]
    return pb.ModelInferResponse(
        model_name=request.model_name,
        model_version="1",
        id=request.id,
        outputs=[
            pb.ModelInferResponse.InferOutputTensor(
                name="logits", datatype="FP32", shape=[rows, 10]
            )
        ],
        raw_output_contents=[bytes(_ROW_BYTES * rows)],
    )


async def serve(host: str = "127.0.0.1", port: int = 0) -> tuple[grpc.aio.Server, int]:
    """Starts the server; returns it and its port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    handler = grpc.unary_unary_rpc_method_handler(
        model_infer,
        request_deserializer=pb.ModelInferRequest.FromString,
        response_serializer=pb.ModelInferResponse.SerializeToString,
    )
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                "inference.GRPCInferenceService", {"ModelInfer": handler}
            ),
        )
    )
    bound = server.add_insecure_port(f"{host}:{port}")
    await server.start()
    return server, bound


async def main() -> None:
    server, port = await serve()
    print(f"127.0.0.1:{port}", flush=True)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
