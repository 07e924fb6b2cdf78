"""Triton's clients, unchanged, on the protocol's control half; prints what each method gave.

In a process of its own, as ``public_client.py``, and on ``managed.py``'s models:

    python control_client.py grpc|aio|http door
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from public_client import Door, _grpc_tls, _http_tls, _let_in

IMAGE = np.ones((1, 4), np.float32)


async def control(client: Any, triton: Any, json_form: dict[str, Any]) -> dict[str, Any]:
    """Everything; ``json_form`` asks the gRPC clients for dictionaries, as HTTP always gives."""

    async def do(answer: Any) -> Any:
        return await answer if inspect.isawaitable(answer) else answer

    async def refusal(call: Callable[[], Any]) -> str:
        from tritonclient.utils import InferenceServerException

        try:
            await do(call())
        except InferenceServerException as error:
            return f"{error.status()}: {error.message()}"
        return "not refused"

    async def score(model: str = "digits") -> float:
        tensor = client.InferInput("image", [1, 4], "FP32")
        tensor.set_data_from_numpy(IMAGE)
        result = await do(triton.infer(model, [tensor]))
        return float(result.as_numpy("scores")[0, 0])

    async def index() -> dict[str, Any]:
        found = await do(triton.get_model_repository_index(**json_form))
        models = found["models"] if isinstance(found, dict) else found
        return {one["name"]: [one["state"], one.get("reason", "")] for one in models}

    server = await do(triton.get_server_metadata(**json_form))
    seen: dict[str, Any] = {"extensions": server["extensions"], "index before": await index()}
    await do(triton.load_model("digits"))
    seen["loaded"], seen["index loaded"] = await score(), await index()
    seen["ready"] = await do(triton.is_model_ready("digits"))
    await do(triton.load_model("digits", config='{"max_batch_size": 5}'))
    config = await do(triton.get_model_config("digits", **json_form))
    seen["rows"] = (config.get("config") or config)["max_batch_size"]
    await do(triton.unload_model("digits"))
    seen["unready"] = await do(triton.is_model_ready("digits"))
    seen["index unloaded"] = await index()
    seen["refused"] = {
        "unloaded": await refusal(score),
        "broken": await refusal(lambda: triton.load_model("broken")),
        "failed": await refusal(lambda: score("broken")),
        "nobody": await refusal(lambda: triton.load_model("nobody")),
        "config": await refusal(
            lambda: triton.load_model("digits", config='{"optimization": {"priority": 1}}')
        ),
    }
    await do(triton.load_model("digits"))

    async def settings(answer: Any) -> dict[str, Any]:
        """By name, however the client has them."""
        found = await do(answer)
        return {name: _value(value) for name, value in (found.get("settings") or found).items()}

    def trace(model: str | None = None, **changes: Any) -> Any:
        return triton.update_trace_settings(model, changes, **json_form)

    seen["trace"] = {
        "first": await settings(triton.get_trace_settings(**json_form)),
        "global": await settings(trace(trace_level=["TIMESTAMPS"], trace_rate="7")),
        "model": await settings(trace("digits", trace_rate="2", trace_count="5")),
        "other": await settings(triton.get_trace_settings("digits", **json_form)),
        "cleared": await settings(trace("digits", trace_rate=None, trace_count=None)),
        "off": await settings(trace(trace_level=None, trace_rate=None)),
    }
    seen["trace refused"] = {
        "file": await refusal(lambda: trace(trace_file="spans.json")),
        "level": await refusal(lambda: trace(trace_level=["TENSORS"])),
        "model": await refusal(lambda: triton.get_trace_settings("nobody")),
    }

    def log(**changes: Any) -> Any:
        return triton.update_log_settings(changes, **json_form)

    seen["log"] = {
        "first": await settings(triton.get_log_settings(**json_form)),
        "changed": await settings(log(log_info=False, log_verbose_level=1, log_format="console")),
        "back": await settings(log(log_info=True, log_verbose_level=0, log_format="json")),
    }
    seen["log refused"] = await refusal(lambda: log(log_file="lepton.log"))
    seen["again"] = await score()
    await do(triton.unload_model("digits", unload_dependents=True))
    await do(triton.close())
    return seen


def _value(value: Any) -> Any:
    """A setting's value: plain, or as protobuf's JSON wraps it."""
    if not isinstance(value, dict):
        return value
    (found,) = value.values()
    return found


def main(kind: str, door: Door) -> dict[str, Any]:
    """What a client saw."""
    address = door["address"]

    async def run() -> dict[str, Any]:
        # Made inside the loop, which the asynchronous one asks for.
        if kind == "http":
            from tritonclient import http

            triton = http.InferenceServerClient(address, **_http_tls(door))
            return await control(http, _let_in(triton, door), {})
        if kind == "aio":
            from tritonclient.grpc import aio as client
        else:
            from tritonclient import grpc as client
        triton = client.InferenceServerClient(address, **_grpc_tls(door))
        return await control(client, _let_in(triton, door), {"as_json": True})

    return asyncio.run(run())


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(sys.argv[1], json.loads(sys.argv[2]))) + "\n")
