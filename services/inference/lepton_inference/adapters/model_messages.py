"""What a service and the process that runs a model for it say to each other.

Frames on a socket pair, each preceded by its length in four bytes. The service is trusted, and
its first message is a pickle; the process may have been taken over by its model, and answers in
JSON, of which nothing is taken that was not asked for.
"""

from __future__ import annotations

import json
import pickle
import socket
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lepton_inference.adapters.tensor_memory import Place
from lepton_inference.model_errors import (
    InputRefused,
    MemoryLimit,
    ModelDoesNotFit,
    ModelInvalid,
    ProviderMissing,
)
from lepton_inference.placement import Placement
from lepton_inference.settings import EndpointInvalid, Isolation, ModelSettings
from lepton_inference.signature import Signature
from lepton_inference.tensors import DATATYPES, TensorSpec
from lepton_mesh.errors import Internal, LeptonError

_LENGTH = struct.Struct("<I")
_LONGEST = 64 << 20
_LONGEST_FAILURE = 2000
_MOST_DESCRIPTORS = 2
_ERRORS: dict[str, type[LeptonError]] = {
    error.reason: error
    for error in (
        EndpointInvalid,
        InputRefused,
        MemoryLimit,
        ModelDoesNotFit,
        ModelInvalid,
        ProviderMissing,
    )
}

Found = tuple[Signature, Placement]
"""What is known of a model once it was tried."""


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """The first message to the process: what it is for."""

    path: Path
    settings: ModelSettings
    known: Found | None = None
    """What an earlier trial has found, so that nothing is checked or measured again."""
    instance: int = 0
    """Which of the model's instances this is."""
    name: str = ""
    """Whose model it is, as logs have it."""

    def dump(self) -> bytes:
        return pickle.dumps(self)

    @classmethod
    def parse(cls, frame: bytes) -> LoadOrder:
        order: LoadOrder = pickle.loads(frame)  # noqa: S301  # from who started this process
        return order


def send(connection: socket.socket, frame: bytes, descriptors: Sequence[int] = ()) -> None:
    """Raises OSError, TimeoutError among them.

    Args:
        connection: To the other end.
        frame: What is said.
        descriptors: Of files, which the other end gets copies of, and has to expect.
    """
    data = _LENGTH.pack(len(frame)) + frame
    if descriptors:
        data = data[socket.send_fds(connection, [data], descriptors) :]
    connection.sendall(data)


def receive(connection: socket.socket) -> bytes:
    """The next frame; raises EOFError once the other end is gone, TimeoutError, OSError."""
    return _frame(connection, _exactly(connection, _LENGTH.size))


def receive_with_descriptors(connection: socket.socket) -> tuple[bytes, list[int]]:
    """As :func:`receive`, and the descriptors that came along; the caller's to close."""
    length, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, _MOST_DESCRIPTORS)
    if not length:
        raise EOFError
    length += _exactly(connection, _LENGTH.size - len(length))
    return _frame(connection, length), descriptors


def _frame(connection: socket.socket, packed_length: bytes) -> bytes:
    (length,) = _LENGTH.unpack(packed_length)
    if length > _LONGEST:
        raise EOFError
    return _exactly(connection, length)


def _exactly(connection: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = connection.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def found_frame(found: Found) -> bytes:
    """What a trial found, as an answer."""
    signature, placement = found
    return json.dumps(
        {
            "inputs": [_plain(spec) for spec in signature.inputs],
            "outputs": [_plain(spec) for spec in signature.outputs],
            "batched": signature.batched,
            "labels": signature.labels,
            "placement": {**asdict(placement), "isolation": placement.isolation.value},
        }
    ).encode()


def error_frame(error: LeptonError) -> bytes:
    """An error as an answer."""
    return json.dumps(
        {"reason": error.reason, "message": error.message, "metadata": error.metadata}
    ).encode()


def tensors_frame(places: list[Place]) -> bytes:
    """Says where the tensors of a batch are."""
    return json.dumps({"tensors": places}).encode()


def failure_frame(error: Exception) -> bytes:
    """An answer for a batch that the model failed on."""
    return json.dumps({"failed": str(error)[:_LONGEST_FAILURE]}).encode()


def answer_of(frame: bytes) -> dict[str, Any]:
    """The answer in a frame.

    Raises:
        EOFError: The frame is none, so that the process is not to be believed any more.
        LeptonError: The answer is this error.
    """
    try:
        answer = json.loads(frame)
        reason = answer.get("reason")
        if reason is None:
            return dict(answer)
        message, metadata = str(answer["message"]), dict(answer["metadata"])
    except (ValueError, AttributeError, KeyError, TypeError):
        raise EOFError from None
    raise _ERRORS.get(reason, Internal)(message, **metadata)


def found_of(answer: dict[str, Any]) -> Found:
    """What a trial found; raises EOFError for an answer that is something else."""
    try:
        signature = Signature(
            tuple(_spec(plain) for plain in answer["inputs"]),
            tuple(_spec(plain) for plain in answer["outputs"]),
            bool(answer["batched"]),
            tuple(str(label) for label in answer["labels"]),
        )
        placement = answer["placement"]
        placement["isolation"] = Isolation(placement["isolation"])
        for name in ("devices", "graph_rows"):
            placement[name] = tuple(placement[name])
        return signature, Placement(**placement)
    except (KeyError, TypeError, ValueError):
        raise EOFError from None


def _plain(spec: TensorSpec) -> list[Any]:
    return [spec.name, spec.datatype.name, spec.shape, spec.names]


def _spec(plain: list[Any]) -> TensorSpec:
    name, datatype, shape, names = plain
    return TensorSpec(str(name), DATATYPES[datatype], tuple(map(int, shape)), tuple(names))
