"""lepton.api.training.v1.TrainingService, and who may call it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.empty_pb2 import Empty

from lepton.api.training.v1 import training_pb2 as pb
from lepton.api.training.v1 import training_pb2_grpc as pb_grpc
from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Role, current_caller
from lepton_mesh.resources import Page
from lepton_training import convert
from lepton_training.jobs import PAGE_KEY, Jobs
from lepton_training.recipes import RECIPES

_SERVICE = "/lepton.api.training.v1.TrainingService"
_VIEWER, _DEVELOPER = Rule(min_role=Role.VIEWER), Rule(min_role=Role.DEVELOPER)

TABLE = AuthorizationTable(
    {
        f"{_SERVICE}/CreateJob": _DEVELOPER,
        f"{_SERVICE}/GetJob": _VIEWER,
        f"{_SERVICE}/ListJobs": _VIEWER,
        f"{_SERVICE}/CancelJob": _DEVELOPER,
        f"{_SERVICE}/PauseJob": _DEVELOPER,
        f"{_SERVICE}/ResumeJob": _DEVELOPER,
        f"{_SERVICE}/DeleteJob": _DEVELOPER,
        f"{_SERVICE}/WatchJob": _VIEWER,
        f"{_SERVICE}/StreamLogs": _VIEWER,
        f"{_SERVICE}/ListRecipes": _VIEWER,
    }
)


class TrainingServicer(pb_grpc.TrainingServiceServicer):
    """RPC methods: parse, call, convert."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.Job:
        caller = current_caller()
        job = await self._jobs.create(
            caller.workspace,
            caller.subject,
            convert.spec_document(request.spec),
            job_id=request.job_id,
            request_id=request.request_id,
            validate_only=request.validate_only,
        )
        return convert.job_message(job)

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.Job:
        job = await self._jobs.get(_workspace(), request.name)
        return convert.job_message(job, await self._jobs.waiting([job]))

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        page = Page.of(request, "jobs", *PAGE_KEY)
        jobs, token = await self._jobs.list_page(_workspace(), page)
        waiting = await self._jobs.waiting(jobs)
        return pb.ListJobsResponse(
            jobs=[convert.job_message(job, waiting) for job in jobs], next_page_token=token
        )

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.Job:
        return convert.job_message(await self._jobs.cancel(_workspace(), request.name))

    async def PauseJob(self, request: pb.PauseJobRequest, context: Any) -> pb.Job:
        return convert.job_message(await self._jobs.pause(_workspace(), request.name))

    async def ResumeJob(self, request: pb.ResumeJobRequest, context: Any) -> pb.Job:
        return convert.job_message(await self._jobs.resume(_workspace(), request.name))

    async def DeleteJob(self, request: pb.DeleteJobRequest, context: Any) -> Empty:
        await self._jobs.delete(_workspace(), request.name)
        return Empty()

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Any
    ) -> AsyncIterator[pb.JobEvent]:
        async for event in self._jobs.watch(_workspace(), request.name, request.after_sequence):
            yield convert.event_message(event)

    async def StreamLogs(
        self, request: pb.StreamLogsRequest, context: Any
    ) -> AsyncIterator[pb.LogLine]:
        async for line in self._jobs.logs(_workspace(), request.name, request.follow):
            yield convert.log_line_message(line)

    async def ListRecipes(
        self, request: pb.ListRecipesRequest, context: Any
    ) -> pb.ListRecipesResponse:
        return pb.ListRecipesResponse(
            recipes=[convert.recipe_message(RECIPES[name]) for name in sorted(RECIPES)]
        )


def _workspace() -> str:
    return current_caller().workspace
