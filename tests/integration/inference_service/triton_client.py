"""Triton's own clients in a process of their own, since their generated code claims the package
``inference`` for itself.

    python triton_client.py load|composed DOOR

``DOOR`` is JSON: ``address``, ``token``, and the files ``authority``, ``certificate`` and ``key``.

``load`` asks the endpoint ``digits`` from five threads, gRPC and HTTP, says ``ready`` once each was
answered, and after a line on standard input prints what they were answered, one JSON line.
``composed`` prints what the endpoints of ``test_composed.py`` answer by either client.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections import Counter
from typing import Any

import numpy as np
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client

IMAGE = np.ones((1, 4), np.float32)
KEYS = [f"user-{number}" for number in range(24)]


class Caller:
    """One client of either kind; not shared between threads."""

    def __init__(self, kind: str, door: dict[str, str]) -> None:
        self.kind = kind
        self._headers = {"authorization": f"Bearer {door['token']}"}
        if kind == "grpc":
            self._module: Any = grpc_client
            self.client: Any = grpc_client.InferenceServerClient(
                door["address"],
                ssl=True,
                root_certificates=door["authority"],
                private_key=door["key"],
                certificate_chain=door["certificate"],
            )
        else:
            files = {"ca_certs": "authority", "certfile": "certificate", "keyfile": "key"}
            self._module = http_client
            self.client = http_client.InferenceServerClient(
                door["address"],
                ssl=True,
                ssl_options={name: door[file] for name, file in files.items()},
            )

    def score(self, model: str, **options: Any) -> float:
        """The first score of an image of ones."""
        tensor = self._module.InferInput("image", [1, 4], "FP32")
        tensor.set_data_from_numpy(IMAGE)
        result = self.client.infer(model, [tensor], headers=self._headers, **options)
        return float(result.as_numpy("scores")[0, 0])

    def streamed(self, model: str) -> float:
        """As :meth:`score`, by a stream; gRPC only."""
        answers: queue.Queue[Any] = queue.Queue()
        tensor = self._module.InferInput("image", [1, 4], "FP32")
        tensor.set_data_from_numpy(IMAGE)
        self.client.start_stream(
            lambda result, error: answers.put(error or result), headers=self._headers
        )
        self.client.async_stream_infer(model, [tensor])
        answer = answers.get(timeout=30)
        self.client.stop_stream()
        return float(answer.as_numpy("scores")[0, 0])

    def ask(self, method: str, *arguments: Any) -> Any:
        """What another method of the client gives, as JSON."""
        options = {"as_json": True} if self.kind == "grpc" and method.startswith("get_") else {}
        return getattr(self.client, method)(*arguments, headers=self._headers, **options)


def load(door: dict[str, str]) -> dict[str, Any]:
    stop = threading.Event()
    begun = threading.Barrier(6)
    answers: Counter[str] = Counter()
    failures: list[str] = []
    lock = threading.Lock()

    def run(kind: str) -> None:
        caller = Caller(kind, door)
        seen: Counter[str] = Counter()
        try:
            seen[f"{kind} {caller.score('digits')}"] += 1
        finally:
            begun.wait(30)
        while not stop.is_set():
            try:
                seen[f"{kind} {caller.score('digits')}"] += 1
            except Exception as error:
                failures.append(f"{kind}: {error}")
        with lock:
            answers.update(seen)

    threads = [
        threading.Thread(target=run, args=(kind,))
        for kind in ("grpc", "grpc", "grpc", "http", "http")
    ]
    for thread in threads:
        thread.start()
    begun.wait(30)
    _say("ready")
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    return {"answers": answers, "failures": failures}


def composed(door: dict[str, str]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for kind in ("grpc", "http"):
        caller = Caller(kind, door)
        split = [caller.score("split", parameters={"routing_key": key}) for key in KEYS]
        again = [caller.score("split", parameters={"routing_key": key}) for key in KEYS]
        versions = [caller.score("split", model_version=version) for version in ("1", "2")]
        config = caller.ask("get_model_config", "reader")
        cached = [caller.score("cached") for _ in range(3)]
        shadowed = [caller.score("shadowed") for _ in range(3)]
        try:
            refused = str(caller.score("shadowed", model_version="2"))
        except Exception as error:
            refused = str(error)
        if kind == "grpc":
            seen["streamed"] = caller.streamed("reader")
        seen[kind] = {
            "split": split,
            "sticky": split == again,
            "versions": versions,
            "reader": caller.score("reader"),
            "reader_ready": caller.ask("is_model_ready", "reader"),
            "reader_config": config.get("config", config),
            "reader_metadata": caller.ask("get_model_metadata", "reader"),
            "reader_statistics": _statistics(caller, "reader"),
            "cached": cached,
            "cached_statistics": _statistics(caller, "cached"),
            "shadowed": shadowed,
            "shadow_refused": refused,
            "shadow_statistics": _statistics(caller, "shadowed"),
        }
    return seen


def _statistics(caller: Caller, model: str) -> Any:
    return caller.ask("get_inference_statistics", model)["model_stats"]


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _say(json.dumps({"load": load, "composed": composed}[sys.argv[1]](json.loads(sys.argv[2]))))
