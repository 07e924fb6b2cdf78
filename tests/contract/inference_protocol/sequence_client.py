"""Triton's clients, unchanged, on models that remember; prints what they saw, one JSON line.

In a process of its own, as ``public_client.py``:

    python sequence_client.py grpc|http door
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from public_client import Door, _grpc_tls, _http_tls, _let_in, _refusal

SEQUENCES, STEPS = 32, 5
INPUTS = np.random.default_rng(3).standard_normal((SEQUENCES, STEPS, 3)).astype(np.float32)


def grpc_client(door: Door) -> dict[str, Any]:
    """Interleaved sequences, unary and on a stream; generation; what is refused."""
    import tritonclient.grpc as client

    triton = _let_in(client.InferenceServerClient(door["address"], **_grpc_tls(door)), door)

    def send(value: np.ndarray[Any, Any], **more: Any) -> np.ndarray[Any, Any]:
        result = triton.infer("lstm", [_tensor(client, value)], **more)
        return np.asarray(result.as_numpy("y"))

    answers: queue.Queue[Any] = queue.Queue()
    triton.start_stream(lambda result, error: answers.put(error or result))

    def stream(name: str, value: np.ndarray[Any, Any], **more: Any) -> None:
        triton.async_stream_infer(name, [_tensor(client, value)], **more)

    def generated(**more: Any) -> list[Any]:
        stream("fibonacci", np.array([[1]], np.int64), request_id="g", **more)
        seen: list[Any] = []
        while True:
            result = answers.get(timeout=20)
            if not hasattr(result, "get_response"):
                return [*seen, result.message()]
            response = result.get_response()
            number = result.as_numpy("y").item() if len(response.outputs) else None
            seen.append([response.id, number])
            if response.parameters["triton_final_response"].bool_param:
                return seen

    return {
        "unary": _difference(_steps(send)),
        "stream": _difference(_streamed(stream, answers)),
        "generated": [
            generated(parameters={"max_steps": 5}, **_whole("g1")),
            generated(parameters={"end_value": 8}, **_whole("g2")),
            generated(parameters={"max_steps": 2}, enable_empty_final_response=True, **_whole(3)),
            generated(parameters={"max_steps": 2}, sequence_id="g1"),
        ],
        "refused": _refused(send)
        | {
            "decoupled": _refusal(
                lambda: triton.infer(
                    "fibonacci", [_tensor(client, np.array([[1]], np.int64))], **_whole(9)
                )
            )
        },
        "config": triton.get_model_config("lstm", as_json=True)["config"]["sequence_batching"],
        "metadata": triton.get_model_metadata("lstm", as_json=True)["inputs"],
    }


def http_client(door: Door) -> dict[str, Any]:
    """Interleaved sequences over REST, with tensors as JSON and raw."""
    import tritonclient.http as client

    triton = _let_in(client.InferenceServerClient(door["address"], **_http_tls(door)), door)
    seen: dict[str, Any] = {}
    for binary in (True, False):

        def send(
            value: np.ndarray[Any, Any], binary: bool = binary, **more: Any
        ) -> np.ndarray[Any, Any]:
            tensor = client.InferInput("x", list(value.shape), "FP32")
            tensor.set_data_from_numpy(value, binary_data=binary)
            wanted = [client.InferRequestedOutput("y", binary_data=binary)]
            result = triton.infer("lstm", [tensor], outputs=wanted, **more)
            return np.asarray(result.as_numpy("y"))

        seen["raw" if binary else "json"] = _difference(_steps(send))
    number = _tensor(client, np.array([[1]], np.int64))
    decoupled = {"decoupled": _refusal(lambda: triton.infer("fibonacci", [number], **_whole(9)))}
    return seen | {"refused": _refused(send) | decoupled}


def _steps(send: Callable[..., np.ndarray[Any, Any]]) -> dict[int, list[np.ndarray[Any, Any]]]:
    """What each sequence gave, its steps taken in turn with the others'."""
    given: dict[int, list[np.ndarray[Any, Any]]] = {k: [] for k in range(SEQUENCES)}
    for k, t, place in _interleaved():
        given[k].append(send(INPUTS[k : k + 1, t : t + 1], **place))
    for k in range(SEQUENCES):
        given[k].append(send(INPUTS[k : k + 1], **_whole(1000 + k)))
    return given


def _streamed(
    stream: Callable[..., None], answers: queue.Queue[Any]
) -> dict[int, list[np.ndarray[Any, Any]]]:
    """As :func:`_steps`, with all of them in flight."""
    for k, t, place in _interleaved():
        stream("lstm", INPUTS[k : k + 1, t : t + 1], request_id=str(k), **place)
    for k in range(SEQUENCES):
        stream("lstm", INPUTS[k : k + 1], request_id=str(k), **_whole(1000 + k))
    given: dict[int, list[np.ndarray[Any, Any]]] = {k: [] for k in range(SEQUENCES)}
    for _ in range(SEQUENCES * (STEPS + 1)):
        result = answers.get(timeout=20)
        given[int(result.get_response().id)].append(result.as_numpy("y"))
    return given


def _interleaved() -> Iterator[tuple[int, int, dict[str, Any]]]:
    for t in range(STEPS):
        for k in range(SEQUENCES):
            # Half of them named by number, half by text.
            id_ = k + 1 if k % 2 else f"s{k}"
            yield (
                k,
                t,
                {
                    "sequence_id": id_,
                    "sequence_start": t == 0,
                    "sequence_end": t == STEPS - 1,
                },
            )


def _whole(id_: int | str) -> dict[str, Any]:
    return {"sequence_id": id_, "sequence_start": True, "sequence_end": True}


def _difference(given: dict[int, list[np.ndarray[Any, Any]]]) -> float:
    """The largest between step by step and all at once."""
    return max(
        float(np.abs(np.concatenate(steps[:-1], axis=1) - steps[-1]).max())
        for steps in given.values()
    )


def _refused(send: Callable[..., Any]) -> dict[str, str]:
    step = INPUTS[:1, :1]
    return {
        "no sequence": _refusal(lambda: send(step)),
        "not begun": _refusal(lambda: send(step, sequence_id="nobody's")),
        "two rows": _refusal(lambda: send(INPUTS[:2, :1], sequence_id=7, sequence_start=True)),
    }


def _tensor(client: Any, value: np.ndarray[Any, Any]) -> Any:
    datatype = "INT64" if value.dtype == np.int64 else "FP32"
    tensor = client.InferInput("x", list(value.shape), datatype)
    tensor.set_data_from_numpy(value)
    return tensor


if __name__ == "__main__":
    kind, door = sys.argv[1], json.loads(sys.argv[2])
    found = {"grpc": grpc_client, "http": http_client}[kind](door)
    sys.stdout.write(json.dumps(found) + "\n")
