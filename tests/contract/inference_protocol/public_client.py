"""Public clients in a process of their own; prints what each method gave, one JSON line.

Their generated code cannot be loaded beside KServe's (both claim package ``inference``), and
comparing descriptors must not depend on what the test process has loaded.

    python public_client.py grpc|aio|http|descriptors [door]

``door`` is JSON: ``address``, and for TLS the files ``authority``, ``certificate`` and ``key``, and
a ``token``. Clients are given them in the ways that their documentation shows.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import ml_dtypes
import numpy as np

IMAGE = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32)
SCORES = np.array([[0.5, 2, 0.5], [3, 1, 3]], np.float32)


Door = dict[str, Any]


def grpc_client(door: Door) -> dict[str, Any]:
    """Every basic method of the synchronous client, then refusals, then a stream."""
    import tritonclient.grpc as client

    triton = _let_in(client.InferenceServerClient(door["address"], **_grpc_tls(door)), door)
    image = _input(client, "image", IMAGE)
    seen: dict[str, Any] = {
        "live": triton.is_server_live(),
        "ready": triton.is_server_ready(),
        "model_ready": triton.is_model_ready("linear"),
        "model_unready": triton.is_model_ready("nobody"),
        "server": triton.get_server_metadata(as_json=True)["name"],
        "metadata": triton.get_model_metadata("linear", as_json=True),
        "config": triton.get_model_config("linear", as_json=True)["config"]["name"],
        "index": sorted(
            m["name"] for m in triton.get_model_repository_index(as_json=True)["models"]
        ),
    }
    for _ in range(3):  # the second and later go the short way
        result = triton.infer("linear", [image])
        seen["scores"] = result.as_numpy("scores").tolist()
    seen["id"] = triton.infer("linear", [image], request_id="r1").get_response().id
    wanted = [client.InferRequestedOutput("scores")]
    seen["wanted"] = triton.infer("linear", [image], outputs=wanted).as_numpy("scores").tolist()
    seen["timeout_parameter"] = (
        triton.infer("linear", [image], timeout=10_000_000, priority=1).as_numpy("scores").tolist()
    )
    seen["gzip"] = (
        triton.infer("linear", [image], compression_algorithm="gzip").as_numpy("scores").tolist()
    )
    pair = [
        _input(client, "n", np.array([[7], [8]], np.int64)),
        _input(client, "b", np.full((2, 2), 10, np.float32)),
        _input(client, "a", np.array([[1, 2], [3, 4]], np.float32)),
    ]
    result = triton.infer("two", pair)
    seen["total"] = result.as_numpy("total").tolist()
    seen["count"] = result.as_numpy("count").tolist()
    wanted = [client.InferRequestedOutput("count")]
    result = triton.infer("two", pair, outputs=wanted)
    seen["only_count"] = [output.name for output in result.get_response().outputs]
    words = np.array([["über"], [""]], dtype=object)
    result = triton.infer("text", [_input(client, "x", words)])
    seen["text"] = [value.decode() for value in result.as_numpy("y").reshape(-1)]
    ranked = [client.InferRequestedOutput("y", class_count=2)]
    result = triton.infer("classes", [_input(client, "x", SCORES)], outputs=ranked)
    seen["classes"] = [value.decode() for value in result.as_numpy("y").reshape(-1)]
    bfloat = client.InferInput("x", [1, 2], "BF16")
    bfloat.set_data_from_numpy(np.array([[0.5, -3]], ml_dtypes.bfloat16))
    seen["bf16"] = triton.infer("identity-bf16", [bfloat]).as_numpy("y").astype(float).tolist()
    statistics = triton.get_inference_statistics("linear", as_json=True)["model_stats"][0]
    seen["inferences"] = int(statistics["inference_count"])
    seen["refused"] = {
        name: _refusal(call)
        for name, call in {
            "unknown": lambda: triton.infer("nobody", [image]),
            "version": lambda: triton.infer("linear", [image], model_version="9"),
            "load": lambda: triton.load_model("linear"),
            "unload": lambda: triton.unload_model("linear"),
        }.items()
    }
    taken: queue.SimpleQueue[Any] = queue.SimpleQueue()
    triton.async_infer("linear", [image], lambda result, error: taken.put((result, error)))
    result, error = taken.get(timeout=20)
    seen["async"] = error.message() if error else result.as_numpy("scores").tolist()
    seen["stream"] = _stream(triton, client, image)
    triton.close()
    return seen


def _stream(triton: Any, client: Any, image: Any) -> list[Any]:
    answers: list[Any] = []
    done = __import__("threading").Event()

    def take(result: Any, error: Any) -> None:
        answers.append(error.message() if error else result.as_numpy("scores").tolist()[0])
        if len(answers) == 3:
            done.set()

    triton.start_stream(take)
    for model in ("linear", "nobody", "linear"):
        triton.async_stream_infer(model, [image])
    done.wait(20)
    triton.stop_stream()
    return answers


async def aio_client(door: Door) -> dict[str, Any]:
    """Many requests at once through the asynchronous client."""
    import tritonclient.grpc.aio as client

    triton = _let_in(client.InferenceServerClient(door["address"], **_grpc_tls(door)), door)
    inputs = []
    for number in range(64):
        tensor = client.InferInput("image", [1, 4], "FP32")
        tensor.set_data_from_numpy(np.full((1, 4), number, np.float32))
        inputs.append(tensor)
    results = await asyncio.gather(*(triton.infer("linear", [tensor]) for tensor in inputs))

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, tensor in enumerate(inputs[:8]):
            model = "nobody" if number == 3 else "linear"
            yield {"model_name": model, "inputs": [tensor], "request_id": str(number)}

    streamed = []
    async for result, error in triton.stream_infer(requests()):
        if error is not None:
            streamed.append(error.message())
        else:
            answer = result.as_numpy("scores")
            streamed.append([result.get_response().id, float(answer[0, 0])])
    seen = {
        "live": await triton.is_server_live(),
        "model_ready": await triton.is_model_ready("linear"),
        "metadata": (await triton.get_model_metadata("linear", as_json=True))["platform"],
        "firsts": [float(result.as_numpy("scores")[0, 0]) for result in results],
        "streamed": streamed,
    }
    await triton.close()
    return seen


def http_client(door: Door) -> dict[str, Any]:
    """REST: JSON and binary tensors, both ways."""
    import tritonclient.http as client

    triton = _let_in(client.InferenceServerClient(door["address"], **_http_tls(door)), door)
    seen: dict[str, Any] = {
        "live": triton.is_server_live(),
        "ready": triton.is_server_ready(),
        "model_ready": triton.is_model_ready("linear"),
        "model_unready": triton.is_model_ready("nobody"),
        "server": triton.get_server_metadata()["name"],
        "metadata": triton.get_model_metadata("linear", model_version="1"),
        "config": triton.get_model_config("linear")["max_batch_size"],
        "index": sorted(m["name"] for m in triton.get_model_repository_index()),
    }
    for binary_in in (True, False):
        for binary_out in (True, False):
            tensor = client.InferInput("image", [2, 4], "FP32")
            tensor.set_data_from_numpy(IMAGE, binary_data=binary_in)
            wanted = [client.InferRequestedOutput("scores", binary_data=binary_out)]
            result = triton.infer("linear", [tensor], outputs=wanted, request_id="r1")
            key = f"{'binary' if binary_in else 'json'}-{'binary' if binary_out else 'json'}"
            seen[key] = result.as_numpy("scores").tolist()
            seen["id"] = result.get_response()["id"]
    seen["default"] = triton.infer("linear", [tensor]).as_numpy("scores").tolist()
    for algorithm in ("gzip", "deflate"):
        result = triton.infer("linear", [tensor], request_compression_algorithm=algorithm)
        seen[algorithm] = result.as_numpy("scores").tolist()
    result = triton.async_infer("linear", [tensor]).get_result()
    seen["async"] = result.as_numpy("scores").tolist()
    words = np.array([["über"], [""]], dtype=object)
    for binary in (True, False):
        tensor = client.InferInput("x", [2, 1], "BYTES")
        tensor.set_data_from_numpy(words, binary_data=binary)
        wanted = [client.InferRequestedOutput("y", binary_data=binary)]
        result = triton.infer("text", [tensor], outputs=wanted).as_numpy("y").reshape(-1)
        seen[f"text-{binary}"] = [v.decode() if isinstance(v, bytes) else v for v in result]
    for binary in (True, False):
        ranked = [client.InferRequestedOutput("y", binary_data=binary, class_count=2)]
        result = triton.infer("classes", [_input(client, "x", SCORES)], outputs=ranked)
        values = result.as_numpy("y").reshape(-1)
        seen[f"classes-{binary}"] = [v.decode() if isinstance(v, bytes) else v for v in values]
    bfloat = client.InferInput("x", [1, 2], "BF16")
    bfloat.set_data_from_numpy(np.array([[0.5, -3]], ml_dtypes.bfloat16))
    seen["bf16"] = triton.infer("identity-bf16", [bfloat]).as_numpy("y").astype(float).tolist()
    statistics = triton.get_inference_statistics("linear")["model_stats"][0]
    seen["inferences"] = statistics["inference_count"]
    image = client.InferInput("image", [2, 4], "FP32")
    image.set_data_from_numpy(IMAGE)
    seen["refused"] = {
        name: _refusal(call)
        for name, call in {
            "unknown": lambda: triton.infer("nobody", [image]),
            "version": lambda: triton.infer("linear", [image], model_version="9"),
            "load": lambda: triton.load_model("linear"),
        }.items()
    }
    triton.close()
    return seen


def descriptors() -> dict[str, Any]:
    """What the public client's generated code says of every message and method."""
    from google.protobuf import descriptor_pb2
    from tritonclient.grpc import model_config_pb2, service_pb2

    files = []
    for module in (service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file.SerializeToString().hex())
    return {"files": files}


def _let_in(triton: Any, door: Door) -> Any:
    """The client, which will send the token with every call."""
    from tritonclient._plugin import InferenceServerClientPlugin

    class Bearer(InferenceServerClientPlugin):
        def __call__(self, request: Any) -> None:
            request.headers["authorization"] = f"Bearer {door['token']}"

    if door["token"]:
        triton.register_plugin(Bearer())
    return triton


def _grpc_tls(door: Door) -> dict[str, Any]:
    if not door["authority"]:
        return {}
    return {
        "ssl": True,
        "root_certificates": door["authority"],
        "private_key": door["key"] or None,
        "certificate_chain": door["certificate"] or None,
    }


def _http_tls(door: Door) -> dict[str, Any]:
    if not door["authority"]:
        return {}
    files = {"ca_certs": "authority", "certfile": "certificate", "keyfile": "key"}
    return {
        "ssl": True,
        "ssl_options": {name: door[file] for name, file in files.items() if door[file]},
    }


def _input(client: Any, name: str, value: Any) -> Any:
    from tritonclient.utils import np_to_triton_dtype

    tensor = client.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(value)
    return tensor


def _refusal(call: Callable[[], Any]) -> str:
    from tritonclient.utils import InferenceServerException

    try:
        call()
    except InferenceServerException as error:
        return f"{error.status()}: {error.message()}"
    return "not refused"


if __name__ == "__main__":
    kind, told = sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    found = {
        "grpc": lambda: grpc_client(told),
        "aio": lambda: asyncio.run(aio_client(told)),
        "http": lambda: http_client(told),
        "descriptors": descriptors,
    }[kind]()
    sys.stdout.write(json.dumps(found) + "\n")
