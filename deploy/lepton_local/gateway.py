"""Asks the gateway as users do: the stock Triton client over gRPC, and plain V2 REST."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

from lepton_mesh.errors import Internal

Array = npt.NDArray[Any]
Rows = Mapping[str, Array]
"""Raw rows: an array ``[N, ...]`` for each input of a model; BYTES are ``bytes`` objects."""
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
        outputs: ``[N, ...]``, the model's one output for each row.
        requests_per_second: Requests answered per second of wall-clock time.
    """

    outputs: Array
    requests_per_second: float

    @property
    def classes(self) -> npt.NDArray[np.int64]:
        """INT64 ``[N]``, the class with the highest score for each row."""
        classes: npt.NDArray[np.int64] = self.outputs.argmax(axis=1)
        return classes


def ask_grpc(
    asked: Asked, rows: Rows, progress: Callable[[int], None], *, rows_a_request: int = 1
) -> Answers:
    """Predicts for all rows, 32 requests in flight.

    Args:
        asked: Whom to ask.
        rows: What to ask of; the dtypes are the model's.
        progress: Told the rows that are done.
        rows_a_request: How many rows go together.

    Raises:
        PredictionFailed: A request failed.
    """
    client = triton.InferenceServerClient(
        asked.address, ssl=True, root_certificates=str(asked.ca_file)
    )
    headers = {"authorization": f"Bearer {asked.token}"}
    metadata = client.get_model_metadata(asked.endpoint, headers=headers)
    datatypes = {tensor.name: tensor.datatype for tensor in metadata.inputs}
    if unknown := sorted(rows.keys() - datatypes.keys()):
        raise PredictionFailed(
            f"{asked.endpoint} takes {', '.join(datatypes)}, and not {', '.join(unknown)}"
        )
    output = metadata.outputs[0].name
    starts = range(0, _count(rows), rows_a_request)
    parts: list[Array | None] = [None] * len(starts)
    failures: list[Exception] = []
    room = threading.Semaphore(_IN_FLIGHT)
    finished = 0

    def done(index: int, result: Any, error: Exception | None) -> None:
        nonlocal finished
        if error is not None:
            failures.append(error)
        else:
            parts[index] = result.as_numpy(output)
        finished += 1
        room.release()

    began = time.monotonic()
    for index, start in enumerate(starts):
        room.acquire()
        if failures:
            room.release()
            break
        client.async_infer(
            asked.endpoint,
            _tensors(rows, datatypes, slice(start, start + rows_a_request)),
            callback=lambda result, error, index=index: done(index, result, error),
            headers=headers,
        )
        if index % 100 == 0:
            progress(finished * rows_a_request)
    for _ in range(_IN_FLIGHT):
        room.acquire()
    seconds = time.monotonic() - began
    client.close()
    if failures:
        raise PredictionFailed(f"the gateway failed a gRPC prediction: {failures[0]}")
    progress(_count(rows))
    outputs = np.concatenate([part for part in parts if part is not None])
    return Answers(outputs, len(parts) / seconds)


def ask_rest(asked: Asked, rows: Rows, progress: Callable[[int], None]) -> Answers:
    """Predicts for all rows, which have no BYTES, as JSON over HTTPS, fifty a request.

    Raises:
        PredictionFailed: A request failed.
    """
    host, _, port = asked.address.rpartition(":")
    context = ssl.create_default_context(cafile=str(asked.ca_file))
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=60)
    headers = {"Authorization": f"Bearer {asked.token}", "Content-Type": "application/json"}
    metadata = _call(connection, "GET", f"/v2/models/{asked.endpoint}", headers)
    parts = []
    began = time.monotonic()
    for start in range(0, _count(rows), _REST_BATCH):
        inputs = []
        for tensor in metadata["inputs"]:
            batch = rows[tensor["name"]][start : start + _REST_BATCH]
            inputs.append(
                {
                    "name": tensor["name"],
                    "datatype": tensor["datatype"],
                    "shape": list(batch.shape),
                    "data": batch.ravel().tolist(),
                }
            )
        answer = _call(
            connection, "POST", f"/v2/models/{asked.endpoint}/infer", headers, {"inputs": inputs}
        )
        output = answer["outputs"][0]
        parts.append(np.array(output["data"], np.float32).reshape(output["shape"]))
        progress(min(start + _REST_BATCH, _count(rows)))
    seconds = time.monotonic() - began
    connection.close()
    return Answers(np.concatenate(parts), len(parts) / seconds)


def _count(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def _tensors(rows: Rows, datatypes: Mapping[str, str], chosen: slice) -> list[triton.InferInput]:
    tensors = []
    for name, values in rows.items():
        batch = np.ascontiguousarray(values[chosen])
        tensor = triton.InferInput(name, list(batch.shape), datatypes[name])
        tensor.set_data_from_numpy(batch)
        tensors.append(tensor)
    return tensors


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
