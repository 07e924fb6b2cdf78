"""Upload and download of one file, beside a plain copy of the same bytes with fsync.

Each round does all three in turn, so that a noisy machine disturbs them alike; medians are
reported. The bytes are random in every round: nothing is found to be there already.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.api.storage.v1.storage_pb2_grpc import StorageServiceStub
from lepton.client import transfer

if TYPE_CHECKING:
    import grpc

_PIECE = 1 << 20


def run(
    channel: grpc.Channel,
    metadata: Sequence[tuple[str, str]] = (),
    *,
    megabytes: int = 256,
    rounds: int = 3,
) -> dict[str, Any]:
    """Measures through ``channel``, a synchronous one with the right to write.

    Returns MB/s (10^6 bytes) of each, and the size of the file.
    """
    stub = StorageServiceStub(channel)
    seconds: dict[str, list[float]] = {"file_copy": [], "upload": [], "download": []}
    with tempfile.TemporaryDirectory() as folder:
        source, copy, target = (Path(folder) / name for name in ("source", "copy", "target"))
        for _ in range(rounds):
            _write_random(source, megabytes)
            seconds["file_copy"].append(_timed(lambda: _copy(source, copy)))
            seconds["upload"].append(
                _timed(lambda: transfer.upload_file(stub, source, metadata=metadata))
            )
            # Found to be there already, this time.
            upload = transfer.upload_file(stub, source, metadata=metadata)
            artifact = stub.CreateArtifact(
                pb.CreateArtifactRequest(
                    artifact=pb.Artifact(sha256=upload.sha256, filename="bench.bin")
                ),
                metadata=tuple(metadata),
                timeout=30,
            )
            begun = time.perf_counter()
            transfer.download_artifact(stub, artifact, target, metadata=metadata)
            seconds["download"].append(time.perf_counter() - begun)
            assert target.read_bytes() == source.read_bytes()
            stub.DeleteArtifact(
                pb.DeleteArtifactRequest(name=artifact.name), metadata=tuple(metadata), timeout=30
            )
    size = megabytes * _PIECE
    rates = {name: round(size / statistics.median(each) / 1e6) for name, each in seconds.items()}
    return {
        "bytes": size,
        **{f"{name}_mb_per_s": rate for name, rate in rates.items()},
        "upload_of_file_copy": round(rates["upload"] / rates["file_copy"], 3),
        "download_of_file_copy": round(rates["download"] / rates["file_copy"], 3),
    }


def _timed(action: Callable[[], object]) -> float:
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def _write_random(path: Path, megabytes: int) -> None:
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(os.urandom(_PIECE))
        file.flush()
        os.fsync(file.fileno())


def _copy(source: Path, target: Path) -> None:
    """What ``cp`` does, and then made durable as an upload is."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while piece := reader.read(_PIECE):
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())
