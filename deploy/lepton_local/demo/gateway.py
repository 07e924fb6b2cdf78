"""Asks the gateway as users do: the stock Triton client over gRPC, and plain V2 REST."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

from lepton_mesh.errors import Internal

Images = npt.NDArray[np.uint8]
_IN_FLIGHT = 32
_REST_BATCH = 50


class PredictionFailed(Internal):
    reason = "PREDICTION_FAILED"


@dataclass(frozen=True, slots=True)
class Asked:
    """Where to ask, and as whom."""

    address: str
    """The gateway, ``host:port``."""
    ca_file: Path
    token: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What the gateway said.

    Attributes:
        classes: int64 [N], the class with the highest score for each image.
        requests_per_second: Requests answered per second of wall-clock time.
    """

    classes: npt.NDArray[np.int64]
    requests_per_second: float


def ask_grpc(asked: Asked, images: Images, progress: Callable[[int], None]) -> Answers:
    """Classifies uint8 images [N, height, width], one a request, 32 requests in flight.

    Raises:
        PredictionFailed: A request failed.
    """
    client = triton.InferenceServerClient(
        asked.address, ssl=True, root_certificates=str(asked.ca_file)
    )
    headers = {"authorization": f"Bearer {asked.token}"}
    endpoint = asked.endpoint
    metadata = client.get_model_metadata(endpoint, headers=headers)
    tensor, output = metadata.inputs[0], metadata.outputs[0]
    classes = np.zeros(len(images), np.int64)
    failures: list[Exception] = []
    room = threading.Semaphore(_IN_FLIGHT)
    finished = 0

    def done(index: int, result: Any, error: Exception | None) -> None:
        nonlocal finished
        if error is not None:
            failures.append(error)
        else:
            classes[index] = result.as_numpy(output.name)[0].argmax()
        finished += 1
        room.release()

    began = time.monotonic()
    for index, image in enumerate(images):
        room.acquire()
        if failures:
            room.release()
            break
        request = triton.InferInput(tensor.name, [1, *image.shape], tensor.datatype)
        request.set_data_from_numpy(image[None])
        client.async_infer(
            endpoint,
            [request],
            callback=lambda result, error, index=index: done(index, result, error),
            headers=headers,
        )
        if index % 100 == 0:
            progress(finished)
    for _ in range(_IN_FLIGHT):
        room.acquire()
    seconds = time.monotonic() - began
    client.close()
    if failures:
        raise PredictionFailed(f"the gateway failed a gRPC prediction: {failures[0]}")
    progress(len(images))
    return Answers(classes, len(images) / seconds)


def ask_rest(asked: Asked, images: Images, progress: Callable[[int], None]) -> Answers:
    """Classifies uint8 images [N, height, width] as JSON over HTTPS, fifty a request.

    Raises:
        PredictionFailed: A request failed.
    """
    host, _, port = asked.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(asked.ca_file))
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
    headers = {"Authorization": f"Bearer {asked.token}", "Content-Type": "application/json"}
    tensor = _call(connection, "GET", f"/v2/models/{asked.endpoint}", headers)["inputs"][0]
    classes = []
    began = time.monotonic()
    for start in range(0, len(images), _REST_BATCH):
        batch = images[start : start + _REST_BATCH]
        body = {
            "inputs": [
                {
                    "name": tensor["name"],
                    "datatype": tensor["datatype"],
                    "shape": list(batch.shape),
                    "data": batch.ravel().tolist(),
                }
            ]
        }
        answer = _call(connection, "POST", f"/v2/models/{asked.endpoint}/infer", headers, body)
        output = answer["outputs"][0]
        scores = np.array(output["data"], np.float32).reshape(output["shape"])
        classes.append(scores.argmax(axis=1))
        progress(start + len(batch))
    seconds = time.monotonic() - began
    connection.close()
    return Answers(np.concatenate(classes), len(classes) / seconds)


def _call(
    connection: http.client.HTTPSConnection,
    method: str,
    path: str,
    headers: dict[str, str],
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    connection.request(method, path, json.dumps(body) if body is not None else None, headers)
    response = connection.getresponse()
    content = response.read()
    if response.status != http.client.OK:
        raise PredictionFailed(
            f"the gateway answered {method} {path} with {response.status}: "
            f"{content[:500].decode(errors='replace')}"
        )
    answer: dict[str, Any] = json.loads(content)
    return answer
