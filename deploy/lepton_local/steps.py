"""Steps from data to an endpoint, by the SDK alone: what the demo, the examples and bench share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lepton.api.inference.v1 import inference_pb2
from lepton.api.storage.v1 import storage_pb2
from lepton.api.training.v1 import training_pb2
from lepton.cli.progress import bytes_bar, follow_job
from lepton.client import Client, spec_from_mapping
from lepton_local.gateway import Asked
from lepton_mesh.errors import Internal


class TrainingFailed(Internal):
    reason = "TRAINING_FAILED"


def push(
    lepton: Client,
    dataset: str,
    files: Mapping[str, Path],
    *,
    format: storage_pb2.DatasetFormat,
    description: str = "",
) -> storage_pb2.DatasetVersion:
    """Makes a version of the files; an existing one when their content is the same."""
    total = sum(path.stat().st_size for path in files.values())
    with bytes_bar(f"pushing {dataset}", total) as update:
        return lepton.data.push(
            dataset, files, format=format, description=description, progress=update
        )


def train(lepton: Client, spec: Mapping[str, Any]) -> training_pb2.Job:
    """Runs a job to its end.

    Raises:
        TrainingFailed: With the job's reason.
        lepton.client.SpecError: The spec has fields that there are not.
    """
    job = follow_job(lepton, lepton.jobs.create(spec_from_mapping(spec)).name)
    if job.state != training_pb2.Job.SUCCEEDED:
        state = training_pb2.Job.State.Name(job.state)
        raise TrainingFailed(
            f"{job.name} ended {state} ({job.failure_reason or state}): {job.failure_message}"
        )
    return job


def deploy(lepton: Client, endpoint: str, model_version: str) -> inference_pb2.Endpoint:
    """Creates an endpoint and waits until it answers."""
    lepton.endpoints.create(endpoint, model_version)
    return lepton.endpoints.wait(endpoint)


def asked(lepton: Client, endpoint: str) -> Asked:
    """What to ask an endpoint through the gateway with, as the client's own user."""
    profile = lepton.profile
    return Asked(profile.address, Path(profile.ca_file), lepton.tokens.token(), endpoint)
