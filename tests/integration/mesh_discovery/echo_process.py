"""An instance of a made-up service: echoes over mutual TLS, registers, drains on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import grpc

from lepton_mesh.connect import CHANNEL_OPTIONS
from lepton_mesh.discovery import Instance, Registration
from lepton_mesh.etcd import EtcdClient


class Echo(grpc.GenericRpcHandler):
    """/test.Echo/Get answers with the instance's name; Count streams numbers until told to stop."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        return {
            "/test.Echo/Get": grpc.unary_unary_rpc_method_handler(self.get),
            "/test.Echo/Slow": grpc.unary_unary_rpc_method_handler(self.slow),
            "/test.Echo/Count": grpc.unary_stream_rpc_method_handler(self.count),
        }.get(handler_call_details.method)

    async def get(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return self._name + b":" + request

    async def slow(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await asyncio.sleep(float(request))
        return self._name

    async def count(self, request: bytes, context: grpc.aio.ServicerContext):
        for number in range(int(request)):
            yield str(number).encode()
            await asyncio.sleep(0.01)


async def main(settings: dict[str, str], key: bytes, chain: bytes, authority: bytes) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Echo(settings["instance"]),))
    port = server.add_secure_port(
        "127.0.0.1:0",
        grpc.ssl_server_credentials([(key, chain)], authority, require_client_auth=True),
    )
    await server.start()
    etcd = EtcdClient(
        [settings["etcd"]],
        lambda address: grpc.aio.secure_channel(
            address,
            grpc.ssl_channel_credentials(authority, key, chain),
            options=[*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", "etcd.lepton.internal")],
        ),
    )
    registration = Registration(
        etcd, Instance("storage", settings["instance"], f"127.0.0.1:{port}")
    )
    await registration.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await registration.revoke()
    await asyncio.sleep(0.5)  # the drain of design section 2: callers hear of it meanwhile
    await server.stop(10)
    await etcd.close()


given = json.loads(sys.argv[1])
pems = [Path(given[name]).read_bytes() for name in ("key", "certificate", "authority")]
asyncio.run(main(given, *pems))
