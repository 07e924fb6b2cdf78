"""Models on their way from the registry into memory, and what of them stays on disk."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton_inference.adapters.model_cache import ModelCache
from lepton_inference.endpoint import Endpoint, ModelVersion, State, Target
from lepton_inference.loader import ModelLoader
from lepton_inference.model import LoadedModel, Session
from lepton_inference.serving import Served, ServingState
from lepton_inference.settings import ModelSettings
from tests.managed_inference import Models
from tests.unit.inference.test_asgi import HeldSession

CONTENT = {"m/1": b"one", "m/2": b"two", "m/3": b"three"}


class ClosableSession(HeldSession):
    """Says when it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def version(number: int) -> ModelVersion:
    digest = hashlib.sha256(CONTENT[f"m/{number}"]).hexdigest()
    return ModelVersion(f"models/m/versions/{number}", f"m/{number}", digest)


def wants(number: int) -> Endpoint:
    target = Target(version(number).name, 1, version(number))
    now = datetime.now(UTC)
    return Endpoint(
        "w", "e", (target,), ModelSettings(), State.DEPLOYING, "somebody", created=now, updated=now
    )


def on_disk(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/model.onnx")}


def digests(numbers: Iterable[int]) -> set[str]:
    return {version(number).sha256 for number in numbers}


async def test_a_load_that_nobody_waits_for_is_let_go(tmp_path: Path) -> None:
    """It counts as a load until its thread is done, and what it made is closed."""
    begun = threading.Semaphore(0)
    go_on = threading.Event()
    sessions: list[ClosableSession] = []

    def load(path: Path, settings: ModelSettings) -> Session:
        begun.release()
        go_on.wait()
        sessions.append(ClosableSession())
        return sessions[-1]

    loader = ModelLoader(Models(CONTENT), ModelCache(tmp_path), load, "test")
    for number in (1, 2):
        task = asyncio.create_task(loader.load(wants(number), version(number)))
        await asyncio.to_thread(begun.acquire)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert loader._loads.locked()
    go_on.set()
    model = await loader.load(wants(3), version(3))
    unwanted = [session for session in sessions if session is not model.session]
    assert len(unwanted) == 2
    for session in unwanted:
        assert await asyncio.to_thread(session.closed.wait, 10)
    await model.close()


async def test_what_answers_stays_on_disk(tmp_path: Path) -> None:
    """Also where something else is wanted by now, which may never come to be served."""
    cache = ModelCache(tmp_path)
    session = ClosableSession()
    loader = ModelLoader(Models(CONTENT), cache, lambda path, settings: session, "test")
    served = Served("e", ServingState.READY, models=[await loader.load(wants(1), version(1))])
    for number in (2, 3):
        await cache.get(
            version(number).sha256, f"m/{number}", Models(CONTENT).read("w", f"m/{number}")
        )
    await loader.forget_unused([wants(2)], [served])
    assert on_disk(tmp_path) == digests((1, 2))
    (model,) = served.models
    assert isinstance(model, LoadedModel)
    await model.close()
    await loader.forget_unused([wants(2)], [])
    assert on_disk(tmp_path) == digests((2,))
