"""The engine with real processes, a real database and real training on tiny images."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lepton_mesh.database import Database
from lepton_mesh.errors import LeptonError
from lepton_training import process
from lepton_training.adapters.sql_jobs import SqlJobs
from lepton_training.changes import Changes
from lepton_training.engine import Engine
from lepton_training.job import Event, Job, StoredCheckpoint
from lepton_training.job_files import JobFiles
from lepton_training.job_queue import Machine, Queue
from lepton_training.jobs import Jobs
from lepton_training.ports import (
    DatasetVersion,
    JobCredentials,
    ModelVersion,
    StoredArtifact,
)
from lepton_training.standby import WAIT, Standby
from lepton_training.supervisor import Supervisor

HERE = Path(__file__).parent
WORKER = (sys.executable, str(HERE / "local_worker.py"))
READY = "import os, pathlib, sys, time; d = pathlib.Path(os.environ['LEPTON_JOB_DIR']); "


@dataclass
class FakeCredentials:
    """``CredentialIssuer`` that remembers what it was asked for."""

    asked: list[tuple[str, str, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    seconds: list[int] = field(default_factory=list)
    refusal: LeptonError | None = None
    refused: int = 0

    async def issue(
        self, workspace: str, job: str, reads: list[str], writes: list[str], ttl_seconds: int
    ) -> JobCredentials:
        if self.refusal is not None:
            self.refused += 1
            raise self.refusal
        self.seconds.append(ttl_seconds)
        self.asked.append((workspace, job, tuple(reads), tuple(writes)))
        return JobCredentials("join", f"token {len(self.asked)}")

    async def join_address(self) -> str:
        return "127.0.0.1:1"


class FakeDatasets:
    """``Datasets`` that has one version of everything."""

    async def resolve(self, name: str) -> DatasetVersion:
        resolved = name.replace("latest", "7")
        kind = "DATASET_FORMAT_CSV" if "table" in name else "DATASET_FORMAT_IDX"
        return DatasetVersion(resolved, "sha256:" + "0" * 64, kind)


class FakeModels:
    """``Models`` that has one version of everything, which an mlp trained."""

    async def resolve(self, name: str) -> ModelVersion:
        files = {name: f"artifacts/{name}" for name in ("weights.pt", "training.json", "x.json")}
        version = name.replace("aliases/best", "versions/4")
        return ModelVersion(version, "mlp", "datasets/older/versions/2", files)


class FakeArtifacts:
    """``Artifacts``: zip archives, the large one too large."""

    async def resolve(self, name: str) -> StoredArtifact:
        kind = "text/plain" if "text" in name else "application/zip"
        return StoredArtifact(name, "c" * 64, 1 << 30 if "large" in name else 1000, kind)


@dataclass
class Training:
    """One life of the service over a state directory."""

    jobs: Jobs
    supervisor: Supervisor
    repository: SqlJobs
    files: JobFiles
    credentials: FakeCredentials
    platform: Path

    async def create(self, job_id: str, **spec: Any) -> Job:
        document = {
            "recipe": "mlp",
            "dataset": "datasets/digits/versions/latest",
            "model": "models/digits",
            "resources": {"cpus": 1},
        }
        return await self.jobs.create("w", "users/ada", document | spec, job_id=job_id)

    async def ended(self, job_id: str) -> Job:
        """The job's record once it has ended."""
        async for event in self.jobs.watch("w", f"jobs/{job_id}", 0):
            if isinstance(event.content, Job) and event.content.state.ended:
                return event.content
        raise AssertionError("the watch ended before the job")

    async def stored(self, job_id: str, artifact: str = "") -> StoredCheckpoint:
        """The checkpoint in the job's record, once it has one; once it is ``artifact``."""
        async with asyncio.timeout(30):
            while True:
                found = (await self.jobs.get("w", f"jobs/{job_id}")).checkpoint
                if found is not None and artifact in ("", found.artifact):
                    return found
                await asyncio.sleep(0.02)

    async def until(self, job_id: str, condition: Callable[[Event], bool]) -> Event:
        """The first event that fulfils ``condition``."""
        async for event in self.jobs.watch("w", f"jobs/{job_id}", 0):
            if condition(event):
                return event
        raise AssertionError("the job ended before the event came")

    async def log(self, job_id: str) -> str:
        lines = [line.text async for line in self.jobs.logs("w", f"jobs/{job_id}", False)]
        return "\n".join(lines)

    def process_of(self, job_id: str) -> process.ProcessId:
        found = process.recorded(self.files.directory("w", job_id))
        assert found is not None
        return found


Start = Callable[..., Awaitable[Training]]


def script(body: str) -> tuple[str, ...]:
    """A job's process that runs ``body``; ``d`` is its directory."""
    return (sys.executable, "-c", READY + body)


async def wait_for_file(path: Path) -> None:
    """Returns when the file is there."""
    async with asyncio.timeout(30):
        while not path.exists():  # noqa: ASYNC240 - another process makes it
            await asyncio.sleep(0.02)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory, write_dataset: Any) -> Path:
    """scikit-learn's 8x8 handwritten digits as an IDX dataset."""
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.uint8)
    directory = tmp_path_factory.mktemp("digits")
    write_dataset(directory, (images[:1400], labels[:1400]), (images[1400:], labels[1400:]))
    return directory


@pytest.fixture(scope="session")
def write_dataset() -> Callable[..., None]:
    """Writes an IDX dataset."""
    import gzip
    import struct

    from lepton_training.worker.data.idx import FILES

    def write(directory: Path, *splits: tuple[np.ndarray, np.ndarray]) -> None:
        for name, values in zip(FILES, (array for pair in splits for array in pair), strict=True):
            header = struct.pack(f">{1 + values.ndim}I", 0x0800 | values.ndim, *values.shape)
            (directory / name).write_bytes(gzip.compress(header + values.tobytes(), 1))

    return write


@pytest.fixture
async def start(tmp_path: Path, digits: Path) -> AsyncIterator[Start]:
    """Starts a life of the service, on the node `here` or `there`; the next one ends the one before
    it."""
    platform = tmp_path / "platform"
    platform.mkdir()
    (platform / "dataset").symlink_to(digits)
    lives: list[tuple[Training, Database]] = []

    def root_of(node: str) -> Path:
        return tmp_path / "nodes" / node

    async def end_last() -> None:
        if lives:
            training, database = lives[-1]
            await training.supervisor.close()
            database.close()

    async def begin(
        command: tuple[str, ...] = WORKER,
        cores: int = 2,
        grace: float = 5.0,
        crashes_max: int = 3,
        machine: Machine | None = None,
        node: str = "here",
        standby: bool = False,
    ) -> Training:
        await end_last()
        database = Database.open(f"sqlite:///{tmp_path}/training.db", "lepton_training.migrations")
        repository, files, changes = SqlJobs(database), JobFiles(root_of(node)), Changes()
        credentials = FakeCredentials()
        names = ("PATH", "HOME", "PYTHONPATH", "PIP_NO_INDEX", "PIP_FIND_LINKS")
        inherited = {name: os.environ[name] for name in names if name in os.environ}
        environment = inherited | {"PLATFORM_DIR": str(platform)}
        engine = Engine(
            repository=repository,
            files=files,
            credentials=credentials,
            changes=changes,
            command=command,
            environment=environment,
            node=node,
            kill_grace_seconds=grace,
            crashes_max=crashes_max,
            standby=Standby((*command, WAIT), environment) if standby else None,
        )
        stopping = asyncio.Event()
        machine = machine or Machine(cores, memory_mib=8192)
        queue = Queue(repository, machine, node, timedelta(hours=1))
        supervisor = Supervisor(engine, queue, machine, stopping)
        jobs = Jobs(
            repository=repository,
            files=files,
            datasets=FakeDatasets(),
            models=FakeModels(),
            artifacts=FakeArtifacts(),
            supervisor=supervisor,
            changes=changes,
            machine=machine,
            queue=queue,
            node=node,
            stopping=stopping,
        )
        training = Training(jobs, supervisor, repository, files, credentials, platform)
        lives.append((training, database))
        await supervisor.start()
        return training

    yield begin
    await end_last()
    for node in ("here", "there"):
        process.stop_recorded(root_of(node), 0.0)
