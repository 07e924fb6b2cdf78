"""Jobs with a user's own code, from spec to registered model, with real processes."""

from __future__ import annotations

import asyncio
import json
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from lepton.client.code import pack_code
from lepton_training import process
from lepton_training.job import Job, Measurement, State
from lepton_training.spec import JobSpecInvalid

pytestmark = pytest.mark.integration

Start = Callable[..., Awaitable[Any]]
EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "own-code" / "digits_net"


def ship(training: Any, name: str, **files: str) -> str:
    """Puts code where the job's process finds it: one module a keyword, or the example."""
    folder = training.platform / "artifacts"
    folder.mkdir(exist_ok=True)
    if files:
        with zipfile.ZipFile(folder / name, "w") as archive:
            for module, text in files.items():
                archive.writestr(f"{module}.py", text)
    else:
        pack_code(EXAMPLE, folder / name)
    return f"artifacts/{name}"


async def create(training: Any, job_id: str, code: dict[str, Any], **spec: Any) -> Job:
    return await training.create(job_id, recipe="", code=code, **spec)


async def test_own_code_from_spec_to_registered_model(start: Start) -> None:
    """The example of the documentation trains by itself; its model is measured, compared and served
    raw, and the lineage has the code."""
    training = await start()
    artifact = ship(training, "example")
    own = {"epochs": 3, "batch_size": 16, "learning_rate": 0.003, "width": 16}
    await create(
        training,
        "trains",
        {"artifact": artifact, "entry_point": "digits_net.train:train", "data_kind": "images"},
        hyperparameters=own,
    )
    job = await training.ended("trains")
    assert (job.state, job.failure_message) == (State.SUCCEEDED, "")
    published = json.loads((training.platform / "published.json").read_text())
    assert published["code"] == [artifact, "c" * 64]
    assert published["hyperparameters"] == own
    assert published["inputs"] == [["images", "UINT8", [-1, 8, 8]]]
    assert job.metrics["test_accuracy"] > 0.85
    assert job.metrics["parity_max_abs_error"] < 1e-4
    assert len(job.epoch_seconds) == 3
    assert training.credentials.asked[-1][2] == ("datasets/digits/versions/7", artifact)
    session = onnxruntime.InferenceSession(training.platform / "model.onnx")
    (probabilities,) = session.run(None, {"images": np.zeros((3, 8, 8), np.uint8)})
    assert probabilities.sum(axis=1) == pytest.approx(1.0)

    kept = {path.name for path in training.files.directory("w", "trains").iterdir()}
    assert kept == {"events.jsonl", "log.txt", "process.json"}


RAISES = """
import os, signal, subprocess, sys
import torch

class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch.tensor([float(index)])

def load():
    loader = torch.utils.data.DataLoader(Rows(), batch_size=2, num_workers=1)
    print("loaded", sum(float(batch.sum()) for batch in loader))

def helper(context):
    if os.access("/dev/shm", os.W_OK) and os.listdir("/dev/shm") == []:
        load()
    else:
        print("loaded nothing: no shared memory")
    context.report(1, 1, {"loss": 0.5}, epochs=2, epoch_end=True)
    context.save_checkpoint({"weights": torch.ones(2)})
    print("told", [name for name in os.environ if name.startswith("LEPTON")], len(sys.argv))
    try:
        print("found", (context.directory.parent / "access-token").read_text())
    except PermissionError:
        print("no token")
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                     start_new_session=True, env={})
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise ValueError("no such luck")

def train(context):
    helper(context)
"""
NAN = """
def train(context):
    try:
        context.report(1, 1, {"loss": float("nan")})
    except Exception:
        pass
    return None
"""
EXITS = "import sys\ndef train(context):\n    sys.exit('enough')\n"


async def test_code_that_fails_says_where(start: Start) -> None:
    """The line is in the message, the traceback in the log; the checkpoint stays, and what was
    started does not."""
    training = await start(cores=2)
    bodies = {"raises": RAISES, "nan": NAN, "exits": EXITS}
    for name, body in bodies.items():
        artifact = ship(training, name, user=body)
        await create(training, name, {"artifact": artifact, "entry_point": "user:train"})
    raised, nan, exited = await asyncio.gather(*(training.ended(name) for name in bodies))

    assert (raised.state, raised.failure_reason) == (State.FAILED, "CODE_FAILED")
    assert "ValueError: no such luck (user.py:30, in helper)" in raised.failure_message
    assert 'helper(context)\n  File "' in await training.log("raises")
    assert "end of the log" in raised.failure_message
    said = await training.log("raises")
    assert "told [] 3" in said
    assert "no token" in said or "this kernel has no Landlock" in said
    assert "loaded 6.0" in said or "there is no shared memory" in said
    assert not process.group_alive(training.process_of("raises"))
    kept = {path.name for path in training.files.directory("w", "raises").iterdir()}
    assert kept == {"checkpoint.pt", "events.jsonl", "log.txt", "process.json"}
    events = [event.content async for event in training.jobs.watch("w", "jobs/raises", 0)]
    (measured,) = [content for content in events if isinstance(content, Measurement)]
    assert (measured.epoch, measured.epochs, dict(measured.metrics)) == (1, 2, {"loss": 0.5})

    assert nan.failure_reason == "METRICS_INVALID"
    assert "the metric 'loss' as nan" in nan.failure_message
    assert exited.failure_reason == "CODE_EXITED"
    assert "sys.exit('enough') before it was done (user.py:3, in train)" in exited.failure_message


async def test_packages_that_cannot_be_had_fail_the_job(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the end of what pip said."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    training = await start()
    artifact = ship(training, "code", user=EXITS)
    await create(
        training,
        "packages",
        {"artifact": artifact, "entry_point": "user:train"},
        python={"requirements": "no-such-package==1.0\n"},
    )
    job = await training.ended("packages")
    assert job.failure_reason == "PYTHON_ENVIRONMENT_FAILED"
    assert "No matching distribution found for no-such-package==1.0" in job.failure_message


THIEF = """
for path in ("access-token", "../access-token"):
    try:
        print("{who} read", open(path).read())
    except PermissionError:
        print("{who} is refused")
    except FileNotFoundError:
        pass
"""


async def test_nothing_of_a_user_runs_before_it_is_confined(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a package runs when Python starts does not get at the job's token, and what an earlier
    attempt left where the code's process is started is not imported."""
    wheels, info = tmp_path / "wheels", "early-1.0.dist-info"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "early-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("early.py", THIEF.format(who="early"))
        wheel.writestr("early.pth", "import early\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: early\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "early.py,,\nearly.pth,,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    training = await start()
    own = training.files.directory("w", "early") / "own"
    own.mkdir(parents=True, mode=0o700)
    for module in ("json", "ctypes", "sitecustomize"):
        (own / f"{module}.py").write_text(THIEF.format(who=module))
    artifact = ship(training, "code", user=EXITS)
    await create(
        training,
        "early",
        {"artifact": artifact, "entry_point": "user:train"},
        python={"requirements": "early==1.0\n"},
    )
    job = await training.ended("early")
    assert job.failure_reason == "CODE_EXITED", job.failure_message
    said = await training.log("early")
    assert "early is refused" in said
    assert " read" not in said and "json" not in said


async def test_what_is_no_code_is_refused(start: Start) -> None:
    """Too large, or not an archive, before anything is queued; a damaged one fails its job."""
    training = await start()
    for name, message in (("text", "is text/plain"), ("large", "belong into a dataset")):
        with pytest.raises(JobSpecInvalid, match=message):
            await create(
                training, name, {"artifact": f"artifacts/{name}", "entry_point": "user:train"}
            )
    ship(training, "damaged", user=EXITS)
    (training.platform / "artifacts" / "damaged").write_bytes(b"PK")
    await create(
        training, "damaged", {"artifact": "artifacts/damaged", "entry_point": "user:train"}
    )
    assert (await training.ended("damaged")).failure_reason == "CODE_INVALID"
