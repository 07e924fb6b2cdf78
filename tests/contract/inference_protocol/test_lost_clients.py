"""Clients that go away with calls in flight take nothing with them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np

from lepton.oip.v2 import open_inference_pb2 as pb
from tests.contract.inference_protocol.doors import Server

# Sends 256 calls, cancels half of them and dies with the other half in flight.
_VANISHING = """
import asyncio, os, sys, grpc
async def main():
    channel = grpc.aio.insecure_channel(sys.argv[1])
    await channel.channel_ready()
    infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    body = open(sys.argv[2], "rb").read()
    calls = [infer(body) for _ in range(256)]
    streams = [stream(iter([body] * 3)) for _ in range(8)]
    first = asyncio.ensure_future(calls[0].code())
    await asyncio.sleep(0)
    for call in (*calls[1::2], *streams[::2]):
        call.cancel()
    await first
    os._exit(0)
asyncio.run(main())
"""


def test_the_server_outlives_its_clients(server: Server, tmp_path: Path) -> None:
    """Twelve clients vanish in the middle; the server is the same process and answers."""
    request = pb.ModelInferRequest(
        model_name="linear",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=[1, 4])],
        raw_input_contents=[np.ones((1, 4), np.float32).tobytes()],
    ).SerializeToString()
    body = tmp_path / "body"
    body.write_bytes(request)
    clients = [
        subprocess.Popen([sys.executable, "-c", _VANISHING, server.address, str(body)])
        for _ in range(12)
    ]
    assert [client.wait(60) for client in clients] == [0] * 12
    with grpc.insecure_channel(server.address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        answer = pb.ModelInferResponse.FromString(infer(request, timeout=20))
        assert answer.outputs[0].name == "scores"
    if server.pid:
        os.kill(server.pid, 0)
