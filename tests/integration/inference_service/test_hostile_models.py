"""What becomes of an endpoint whose model means harm, and of a server that is killed."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lepton_inference.endpoint import Endpoint, State, Wanted
from lepton_inference.settings import ExecutionSettings, ModelSettings
from lepton_inference.signature import InferenceRequest, InputTensor
from lepton_mesh.caller import Caller, Role, set_caller
from tests import hostile_models as hostile
from tests.inference_models import linear
from tests.managed_inference import ManagedInference, Models

ADA = Caller("user", "users/ada", "lab", Role.DEVELOPER)
MODELS = {
    "good/1": linear(1.0),
    "cyclic/1": hostile.cyclic(),
    "greedy/1": hostile.expands_to(1 << 22),
}


async def deployed(managed: ManagedInference, name: str, settings: ModelSettings) -> Endpoint:
    """The endpoint once it is READY or FAILED."""
    set_caller(ADA)
    wanted = Wanted(targets=((f"models/{name}/versions/1", 1),), settings=settings)
    await managed.manager.create(
        workspace="lab", endpoint_id=name, creator="users/ada", wanted=wanted
    )
    async for endpoint in managed.manager.watch("lab", name, asyncio.Event()):
        if endpoint.state in (State.READY, State.FAILED):
            return endpoint
    raise AssertionError


@pytest.mark.parametrize(
    ("name", "limit", "reason"),
    [("cyclic", 0, "MODEL_INVALID"), ("greedy", 64, "MODEL_DOES_NOT_FIT")],
)
async def test_its_endpoint_fails_and_others_go_on(
    tmp_path: Path, name: str, limit: int, reason: str
) -> None:
    """With the reason on record; it is not tried again and again."""
    managed = await asyncio.to_thread(
        ManagedInference, Models(MODELS), tmp_path / "record.db", tmp_path / "models"
    )
    good = await deployed(managed, "good", ModelSettings())
    assert good.state is State.READY
    limited = ModelSettings(execution=ExecutionSettings(memory_limit_mib=limit))
    failed = await deployed(managed, name, limited)
    assert (failed.state, failed.failure_reason) == (State.FAILED, reason)
    model = managed.serving.workspace("lab").find("good").pick()
    image = np.ones((1, 4), np.float32).tobytes()
    tensor = InputTensor("image", "FP32", (1, 4), image)
    _, (batch, first) = await model.infer(InferenceRequest("good", "", [tensor]))
    assert batch.arrays[0][first].tolist() == [4.0] * 3
    await managed.close()


_SERVER = """
import sys
from pathlib import Path
import numpy as np
from lepton_inference.adapters.onnx_runtime import load
from lepton_inference.settings import ExecutionSettings, ModelSettings
execution = ExecutionSettings(max_run_ms=3_600_000)
session = load(Path(sys.argv[1]), ModelSettings(execution=execution))
print(*session.pids, flush=True)
session.run({"x": np.full((1, 4), 1000.0, np.float32)})
"""


def test_no_process_of_a_model_outlives_its_server(tmp_path: Path) -> None:
    """However the server ends, and whatever the model computes."""
    path = tmp_path / "model.onnx"
    path.write_bytes(hostile.endless_above(100.0))
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER, str(path)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        watched = os.pidfd_open(int(server.stdout.readline()))
        server.send_signal(signal.SIGKILL)
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    assert poll.poll(30_000)
    os.close(watched)
