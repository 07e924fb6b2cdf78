"""Training jobs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from lepton.api.training.v1 import training_pb2 as pb
from lepton.api.training.v1.training_pb2_grpc import TrainingServiceStub
from lepton.client.errors import UnavailableError, translated
from lepton.client.names import job_name
from lepton.client.pages import items

Item = TypeVar("Item")

_MOST_FAILURES = 8
_FIRST_PAUSE_SECONDS = 0.25
_LONGEST_PAUSE_SECONDS = 5.0

ENDED = frozenset({pb.Job.SUCCEEDED, pb.Job.FAILED, pb.Job.CANCELLED})
"""States that a job does not leave."""


class JobClient:
    """Runs and follows jobs. Every method raises :class:`lepton.client.ApiError`."""

    def __init__(self, stub: TrainingServiceStub) -> None:
        self._stub = stub

    def create(self, spec: pb.JobSpec, *, job_id: str = "", validate_only: bool = False) -> pb.Job:
        """Queues a job; its id is the server's choice unless given."""
        request = pb.CreateJobRequest(job_id=job_id, spec=spec, validate_only=validate_only)
        with translated():
            return self._stub.CreateJob(request, timeout=60)

    def get(self, job: str) -> pb.Job:
        """Returns a job by id or resource name."""
        with translated():
            return self._stub.GetJob(pb.GetJobRequest(name=job_name(job)), timeout=30)

    def list(self) -> Iterator[pb.Job]:
        """Yields every job of the workspace, newest first."""
        return items(
            lambda token: self._stub.ListJobs(pb.ListJobsRequest(page_token=token), timeout=30),
            lambda page: page.jobs,
        )

    def cancel(self, job: str) -> pb.Job:
        """Asks a job to stop; returns at once."""
        with translated():
            return self._stub.CancelJob(pb.CancelJobRequest(name=job_name(job)), timeout=30)

    def pause(self, job: str) -> pb.Job:
        """Asks a job to give back what it holds, after a checkpoint; returns at once."""
        with translated():
            return self._stub.PauseJob(pb.PauseJobRequest(name=job_name(job)), timeout=30)

    def resume(self, job: str) -> pb.Job:
        """Queues a paused job again."""
        with translated():
            return self._stub.ResumeJob(pb.ResumeJobRequest(name=job_name(job)), timeout=30)

    def delete(self, job: str) -> None:
        """Deletes the record, files and checkpoint of a job that has ended; its models stay."""
        with translated():
            self._stub.DeleteJob(pb.DeleteJobRequest(name=job_name(job)), timeout=60)

    def watch(self, job: str, after: int = 0) -> Iterator[pb.JobEvent]:
        """Yields what happens to a job, from its first event on, until it has ended.

        Goes on by itself where it was when the connection breaks.
        """

        def events() -> Iterator[pb.JobEvent]:
            nonlocal after
            request = pb.WatchJobRequest(name=job_name(job), after_sequence=after)
            for event in self._stub.WatchJob(request):
                after = event.sequence
                yield event

        return _resumed(events)

    def logs(self, job: str, *, follow: bool = False) -> Iterator[pb.LogLine]:
        """Yields the lines of a job's log; with ``follow`` until the job has ended.

        Goes on by itself where it was when the connection breaks.
        """
        seen = 0

        def lines() -> Iterator[pb.LogLine]:
            nonlocal seen
            request = pb.StreamLogsRequest(name=job_name(job), follow=follow)
            for line in itertools.islice(self._stub.StreamLogs(request), seen, None):
                seen += 1
                yield line

        return _resumed(lines)

    def recipes(self) -> Sequence[pb.Recipe]:
        """Returns the recipes that a spec may name."""
        with translated():
            return self._stub.ListRecipes(pb.ListRecipesRequest(), timeout=30).recipes


def _resumed(begin: Callable[[], Iterator[Item]]) -> Iterator[Item]:
    """Yields from ``begin()``, begun again when the connection breaks.

    A stream that failed eight times in a row, which takes 22 seconds, is given up; at once if it
    never gave anything and nobody answered at the address, not even to say that the service is
    away.
    """
    begun, failures = False, 0
    while True:
        try:
            with translated():
                for item in begin():
                    begun, failures = True, 0
                    yield item
        except UnavailableError as error:
            failures += 1
            answered = begun or error.said_by_server
            if not answered or failures == _MOST_FAILURES:
                raise
            time.sleep(min(_FIRST_PAUSE_SECONDS * 2**failures, _LONGEST_PAUSE_SECONDS))
        else:
            return
