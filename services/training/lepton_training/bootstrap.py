"""Builds the training service: the only place that knows which adapter stands behind a port."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from datetime import timedelta
from pathlib import Path

from lepton.api.training.v1 import training_pb2, training_pb2_grpc
from lepton_mesh.database import Database
from lepton_mesh.durable import write_private
from lepton_mesh.process import Served, Service
from lepton_mesh.runtime import MeshRuntime
from lepton_training.adapters.machine import describe_machine
from lepton_training.adapters.mesh import (
    MeshArtifacts,
    MeshCheckpoints,
    MeshCredentials,
    MeshDatasets,
    MeshModels,
)
from lepton_training.adapters.sql_jobs import SqlJobs
from lepton_training.changes import Changes
from lepton_training.config import TrainingSettings
from lepton_training.disposal import Disposal
from lepton_training.engine import Engine
from lepton_training.job_files import JobFiles
from lepton_training.job_queue import Queue
from lepton_training.jobs import Jobs
from lepton_training.servicer import TABLE, TrainingServicer
from lepton_training.standby import WAIT, Standby
from lepton_training.supervisor import Supervisor

_WORKER = (sys.executable, "-m", "lepton_training.worker")
_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "_LEPTON_STACK",
)
"""What a job's process sees of the service's environment.

The last is the mark of a local stack: without it `lepton down` would leave running jobs behind.
"""
_FOR_PIP = ("http_proxy", "https_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir")
"""And what pip needs to find packages, beside PIP_ variables; users' code sees none of it."""


async def build(runtime: MeshRuntime, settings: TrainingSettings) -> Service:
    """Opens the database and wires everything; jobs are taken up by ``start``."""
    database = await asyncio.to_thread(
        Database.open, settings.database_url, "lepton_training.migrations"
    )
    machine = await asyncio.to_thread(
        describe_machine, settings.job_cores, settings.job_memory_mib, settings.job_gpus
    )
    repository, changes = SqlJobs(database), Changes()
    files = JobFiles(settings.state_dir / "jobs")
    node = await asyncio.to_thread(_node, settings.state_dir)
    environment = _worker_environment(settings)
    queue = Queue(repository, machine, node, timedelta(seconds=settings.job_aging_seconds))
    supervisor = Supervisor(
        Engine(
            repository=repository,
            files=files,
            credentials=MeshCredentials(runtime),
            changes=changes,
            command=_WORKER,
            environment=environment,
            node=node,
            kill_grace_seconds=settings.job_kill_grace_seconds,
            crashes_max=settings.job_crashes_max,
            standby=Standby((*_WORKER, WAIT), environment) if settings.job_standby else None,
        ),
        queue,
        machine,
        runtime.draining,
    )
    jobs = Jobs(
        repository=repository,
        files=files,
        datasets=MeshDatasets(runtime),
        models=MeshModels(runtime),
        artifacts=MeshArtifacts(runtime),
        supervisor=supervisor,
        changes=changes,
        machine=machine,
        queue=queue,
        node=node,
        stopping=runtime.draining,
    )

    disposal = Disposal(repository, MeshCheckpoints(runtime))

    async def start() -> None:
        await supervisor.start()
        disposal.start()

    async def close() -> None:
        await disposal.close()
        await supervisor.close()
        await asyncio.to_thread(database.close)

    return Service(
        servicers=[
            Served(
                training_pb2_grpc.add_TrainingServiceServicer_to_server,
                TrainingServicer(jobs),
                training_pb2.DESCRIPTOR.services_by_name["TrainingService"],
            )
        ],
        table=TABLE,
        start=start,
        close=close,
        capacity=machine.cores,
    )


def _worker_environment(settings: TrainingSettings) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith("PIP_") or name.lower() in _FOR_PIP
    }
    return inherited | {
        "PYTHONUNBUFFERED": "1",
        "LEPTON_TRUST_DOMAIN": settings.trust_domain,
        "LEPTON_ETCD_ENDPOINTS": settings.etcd_endpoints,
        "LEPTON_OTLP_ENDPOINT": settings.otlp_endpoint,
        "LEPTON_METRICS_PORT": "-1",
        "LEPTON_ENVIRONMENTS_DIR": str(settings.state_dir / "environments"),
        "LEPTON_ENVIRONMENTS_MIB": str(settings.job_environments_mib),
        "LEPTON_ALLOW_UNCONFINED_CODE": str(settings.allow_unconfined_code),
        "LEPTON_CHECKPOINT_SECONDS": str(settings.job_checkpoint_seconds),
        "LEPTON_CHECKPOINT_MIB": str(settings.job_checkpoint_mib),
        "LEPTON_KILL_GRACE_SECONDS": str(settings.job_kill_grace_seconds),
    }


def _node(state_dir: Path) -> str:
    """The name of this state directory, for good: jobs that run in it belong to it."""
    path = state_dir / "node"
    if not path.exists():
        write_private(path, uuid.uuid4().hex.encode())
    return path.read_text().strip()
