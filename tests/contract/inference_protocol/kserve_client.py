"""KServe's own inference client, unchanged; prints what each method gave, one JSON line.

It runs in an environment of its own (`make clients`): its generated code and Triton's both claim
the protobuf package ``inference``, and its dependencies are not ours.

    build/clients/kserve/bin/python kserve_client.py grpc|rest|control door

``door`` as for ``public_client.py``.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.infer_type import RequestedOutput

Door = dict[str, Any]
Ask = Callable[[InferRequest], Awaitable[Any]]

IMAGE = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
WORDS = np.array([["über"], [""]], dtype=object)


async def grpc_client(door: Door) -> dict[str, Any]:
    """Every method of the gRPC client, tensors raw and typed, and a refusal."""
    headers = [("authorization", f"Bearer {door['token']}")] if door["token"] else []
    async with InferenceGRPCClient(door["address"], **_tls(door)) as kserve:
        return {
            "live": await kserve.is_server_live(headers=headers),
            "ready": await kserve.is_server_ready(headers=headers),
            "model_ready": await kserve.is_model_ready("linear", headers=headers),
            "model_unready": await kserve.is_model_ready("nobody", headers=headers),
            **await _inferences(lambda request: kserve.infer(request, headers=headers)),
        }


async def rest_client(door: Door) -> dict[str, Any]:
    """Every method of the REST client, tensors binary and JSON both ways, and a refusal."""
    config = RESTConfig(protocol="v2", verify=_context(door) if door["authority"] else True)
    base = f"http{'s' if door['authority'] else ''}://{door['address']}"
    headers = {"authorization": f"Bearer {door['token']}"} if door["token"] else {}
    kserve = InferenceRESTClient(config)

    async def infer(request: InferRequest) -> Any:
        return await kserve.infer(base, request, request.model_name, headers=dict(headers))

    seen = {
        "live": await kserve.is_server_live(base, headers=headers),
        "ready": await kserve.is_server_ready(base, headers=headers),
        "model_ready": await kserve.is_model_ready(base, "linear", headers=headers),
        "model_unready": await kserve.is_model_ready(base, "nobody", headers=headers),
        **await _inferences(infer),
    }
    for binary in (True, False):
        wanted = [RequestedOutput("scores", {"binary_data": binary})]
        request = InferRequest("linear", [_raw("image", IMAGE)], request_outputs=wanted)
        seen[f"binary-{binary}"] = (await infer(request)).outputs[0].as_numpy().tolist()
    everything = InferRequest(
        "linear", [_raw("image", IMAGE)], parameters={"binary_data_output": True}
    )
    seen["all-binary"] = (await infer(everything)).outputs[0].as_numpy().tolist()
    await kserve.close()
    return seen


async def control_client(door: Door) -> dict[str, Any]:
    """Loads and unloads by KServe's own stub, for which its client has no method."""
    headers = [("authorization", f"Bearer {door['token']}")] if door["token"] else []
    async with InferenceGRPCClient(door["address"], **_tls(door)) as kserve:
        stub = kserve._client_stub
        load = pb.RepositoryModelLoadRequest(model_name="digits")
        loaded = await stub.RepositoryModelLoad(load, metadata=headers)
        ready = await kserve.is_model_ready("digits", headers=headers)
        unload = pb.RepositoryModelUnloadRequest(model_name="digits")
        unloaded = await stub.RepositoryModelUnload(unload, metadata=headers)
        seen = {
            "load": {"model_name": loaded.model_name, "isLoaded": loaded.isLoaded},
            "ready": ready,
            "unload": {"model_name": unloaded.model_name, "isUnloaded": unloaded.isUnloaded},
            "unready": await kserve.is_model_ready("digits", headers=headers),
        }
        try:
            load.model_name = "nobody"
            await stub.RepositoryModelLoad(load, metadata=headers)
        except grpc.aio.AioRpcError as error:
            seen["refused"] = f"{error.code()}: {error.details()}"
        return seen


def _tls(door: Door) -> dict[str, Any]:
    if not door["authority"]:
        return {}
    return {
        "use_ssl": True,
        "root_certificates": door["authority"],
        "private_key": door["key"] or None,
        "certificate_chain": door["certificate"] or None,
    }


async def _inferences(infer: Ask) -> dict[str, Any]:
    """What both clients are asked."""
    seen: dict[str, Any] = {}
    for _ in range(3):  # the second and later go the short way
        answer = await infer(InferRequest("linear", [_raw("image", IMAGE)], request_id="r1"))
        seen["raw"] = answer.outputs[0].as_numpy().tolist()
    seen["id"], seen["model"] = answer.id, answer.model_name
    typed = InferInput("image", [2, 4], "FP32", data=IMAGE.reshape(-1).tolist())
    seen["typed"] = (await infer(InferRequest("linear", [typed]))).outputs[0].as_numpy().tolist()
    pair = [
        _raw("n", np.array([[7], [8]], np.int64)),
        _raw("b", np.full((2, 2), 10, np.float32)),
        _raw("a", np.array([[1, 2], [3, 4]], np.float32)),
    ]
    answer = await infer(InferRequest("two", pair))
    seen |= {output.name: output.as_numpy().tolist() for output in answer.outputs}
    answer = await infer(InferRequest("two", pair, request_outputs=[RequestedOutput("count")]))
    seen["wanted"] = [output.name for output in answer.outputs]
    answer = await infer(InferRequest("text", [_raw("x", WORDS)]))
    seen["text"] = [
        word.decode() if isinstance(word, bytes) else word
        for word in answer.outputs[0].as_numpy().reshape(-1)
    ]
    half = np.array([[0.5, -1.5]], np.float16)
    answer = await infer(InferRequest("identity-fp16", [_raw("x", half)]))
    seen["half"] = answer.outputs[0].as_numpy().tolist()
    try:
        await infer(InferRequest("nobody", [_raw("image", IMAGE)]))
    except Exception as error:
        seen["refused"] = f"{type(error).__name__}: {error}"
    return seen


def _raw(name: str, value: Any) -> InferInput:
    kinds = {
        np.dtype(np.float32): "FP32",
        np.dtype(np.float16): "FP16",
        np.dtype(np.int64): "INT64",
    }
    tensor = InferInput(name, list(value.shape), kinds.get(value.dtype, "BYTES"))
    tensor.set_data_from_numpy(value, binary_data=True)
    return tensor


def _context(door: Door) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=door["authority"])
    if door["certificate"]:
        context.load_cert_chain(door["certificate"], door["key"])
    return context


if __name__ == "__main__":
    client = {"grpc": grpc_client, "rest": rest_client, "control": control_client}[sys.argv[1]]
    sys.stdout.write(json.dumps(asyncio.run(client(json.loads(sys.argv[2])))) + "\n")
