"""The main job, step by step, through the SDK and the gateway only."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.json_format import MessageToDict

from lepton.api.inference.v1 import inference_pb2
from lepton.api.registry.v1 import registry_pb2
from lepton.api.storage.v1 import storage_pb2
from lepton.api.training.v1 import training_pb2
from lepton.cli.progress import count_bar
from lepton.client import Client
from lepton_local import gateway, steps
from lepton_local.demo.dataset import FILES, Source, read_test_images
from lepton_local.demo.report import Report
from lepton_mesh.errors import Internal

DATASET = MODEL = ENDPOINT = "digits"


class DemoFailed(Internal):
    reason = "DEMO_FAILED"


@dataclass(frozen=True, slots=True)
class Settings:
    """What of the job can be chosen; the defaults are the seed's."""

    recipe: str = "cnn"
    epochs: int = 5
    seed: int = 0


def run(lepton: Client, source: Source, settings: Settings, report: Report) -> dict[str, Any]:
    """Takes raw files to predictions; returns the figures of the last line.

    Raises:
        TrainingFailed: The job failed.
        PredictionFailed: The gateway did not answer.
        DemoFailed: What is served by gRPC is not what is served by REST.
        lepton.client.LeptonError: A call failed.
    """
    began = time.monotonic()
    version = _push(lepton, source, report)
    job = _train(lepton, version, settings, report)
    model = _show_model(lepton, job, report)
    _deploy(lepton, model, report)
    answers = _classify(lepton, source, report)
    accuracy = model.metrics["test_accuracy"]
    report.accuracies(accuracy, answers)
    return {
        "dataset": source.name,
        "test_accuracy": accuracy,
        "gateway_accuracy_grpc": answers.accuracy_grpc,
        "gateway_accuracy_rest": answers.accuracy_rest,
        "macro_f1": model.metrics["macro_f1"],
        "seconds_per_epoch": [round(seconds, 3) for seconds in job.epoch_seconds],
        "parity_max_abs_error": MessageToDict(model.parity)["max_abs_error"],
        "model_version": model.name,
        "requests_per_second_grpc": round(answers.requests_per_second, 1),
        "total_seconds": round(time.monotonic() - began, 1),
    }


def _push(lepton: Client, source: Source, report: Report) -> storage_pb2.DatasetVersion:
    files = {name: source.folder / name for name in FILES}
    report.step(f"pushing {source.note}")
    version = steps.push(
        lepton,
        DATASET,
        files,
        format=storage_pb2.DATASET_FORMAT_IDX,
        description=source.note,
    )
    report.fact("dataset", f"{version.name}  {version.digest}")
    return version


def _train(
    lepton: Client, version: storage_pb2.DatasetVersion, settings: Settings, report: Report
) -> training_pb2.Job:
    report.step(f"training {settings.recipe} for {settings.epochs} epochs")
    job = steps.train(
        lepton,
        {
            "recipe": settings.recipe,
            "dataset": version.name,
            "model": f"models/{MODEL}",
            "seed": settings.seed,
            "hyperparameters": {"epochs": settings.epochs},
        },
    )
    seconds = ", ".join(f"{seconds:.1f}" for seconds in job.epoch_seconds)
    report.fact("job", f"{job.name}  epochs of {seconds} s")
    return job


def _show_model(lepton: Client, job: training_pb2.Job, report: Report) -> registry_pb2.ModelVersion:
    model = lepton.models.version(job.model_version)
    report.evaluation(MessageToDict(model.evaluation))
    parity = MessageToDict(model.parity)
    report.fact(
        "parity", f"PyTorch and ONNX Runtime differ by {parity['max_abs_error']:.2e} at most"
    )
    report.fact("model", f"{model.name}  sha256:{model.sha256[:16]}…")
    return model


def _deploy(
    lepton: Client, model: registry_pb2.ModelVersion, report: Report
) -> inference_pb2.Endpoint:
    report.step(f"deploying {model.name}")
    endpoint = steps.deploy(lepton, ENDPOINT, model.name)
    report.fact("endpoint", f"{endpoint.name}  on {endpoint.execution_provider}")
    return endpoint


@dataclass(frozen=True, slots=True)
class Accuracies:
    """What the gateway got right."""

    images: int
    accuracy_grpc: float
    accuracy_rest: float
    requests_per_second: float


def _classify(lepton: Client, source: Source, report: Report) -> Accuracies:
    images, labels = read_test_images(source.folder)
    asked, rows = steps.asked(lepton, ENDPOINT), {"images": images}
    report.step(f"classifying {len(images):,} test images through https://{asked.address}")
    with count_bar("gRPC", len(images)) as update:
        grpc = gateway.ask_grpc(asked, rows, update)
    with count_bar("REST", len(images)) as update:
        rest = gateway.ask_rest(asked, rows, update)
    differing = int(np.count_nonzero(grpc.classes != rest.classes))
    if differing:
        raise DemoFailed(f"gRPC and REST disagree on {differing} of {len(images)} images")
    return Accuracies(
        images=len(images),
        accuracy_grpc=float(np.mean(grpc.classes == labels)),
        accuracy_rest=float(np.mean(rest.classes == labels)),
        requests_per_second=grpc.requests_per_second,
    )
