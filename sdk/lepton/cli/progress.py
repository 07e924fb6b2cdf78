"""Progress on stderr: bars on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from lepton.api.inference.v1 import inference_pb2
from lepton.api.training.v1 import training_pb2 as pb
from lepton.cli.errors import printable
from lepton.cli.output import on_terminal
from lepton.client import Client


def _text(template: str) -> TextColumn:
    """Text as it was typed: a name with brackets in it is no markup."""
    return TextColumn(template, markup=False)


@contextmanager
def bytes_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over bytes; call what it yields with the count so far."""
    columns = (
        _text("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
    )
    with _bar(description, total, *columns) as update:
        yield update


@contextmanager
def count_bar(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar over things; call what it yields with the count so far."""
    columns = (
        _text("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with _bar(description, total, *columns) as update:
        yield update


@contextmanager
def _bar(description: str, total: int, *columns: object) -> Iterator[Callable[[int], None]]:
    progress = Progress(*columns, console=Console(stderr=True), disable=not on_terminal())  # type: ignore[arg-type]  # a tuple of columns
    with progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.update(task, completed=done)


def follow_job(lepton: Client, name: str) -> pb.Job:
    """Shows a job's progress until it has ended, and returns it as it ended.

    Live loss and accuracy stand behind the bar; on no terminal nothing is shown.
    """
    progress = Progress(
        _text("{task.description}"),
        BarColumn(),
        _text("{task.percentage:>3.0f}%"),
        _text("{task.fields[numbers]}"),
        console=Console(stderr=True),
        disable=not on_terminal(),
    )
    with progress:
        task = progress.add_task(name, total=1.0, numbers="")
        for event in lepton.jobs.watch(name):
            if event.HasField("job"):
                job = event.job
                phase = pb.Job.Phase.Name(job.phase).lower()
                state = pb.Job.State.Name(job.state).lower()
                described = phase if job.state == pb.Job.RUNNING and job.phase else state
                progress.update(task, description=f"{job.name} {described}", completed=job.progress)
            else:
                progress.update(
                    task,
                    completed=event.measurement.progress,
                    numbers=numbers(event.measurement),
                )
    return lepton.jobs.get(name)


def follow_endpoint(lepton: Client, name: str, timeout: float) -> inference_pb2.Endpoint:
    """Waits until an endpoint is READY, and shows for how long and what for.

    On no terminal nothing is shown. Raises as :meth:`lepton.client.EndpointClient.wait`.
    """
    progress = Progress(
        _text("{task.description}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not on_terminal(),
    )
    with progress:
        task = progress.add_task(f"waiting for {name}", total=None)
        return lepton.endpoints.wait(
            name, timeout, lambda seen: progress.update(task, description=_stands(seen))
        )


def _stands(endpoint: inference_pb2.Endpoint) -> str:
    state = endpoint.State.Name(endpoint.state).lower()
    doing = printable(endpoint.activity or endpoint.failure_message)
    return f"{endpoint.name} {state}" + (f": {doing}" if doing else "")


def numbers(measurement: pb.Measurement) -> str:
    """One line of figures, such as ``epoch 2/5  train_loss 0.0412``."""
    values = "  ".join(
        f"{printable(name)} {value:.4f}" for name, value in sorted(measurement.metrics.items())
    )
    return f"epoch {measurement.epoch}/{measurement.epochs}  {values}"
