"""What a job's process proves its rights with: issued when it starts, and anew while it runs."""

from __future__ import annotations

import asyncio
import logging
import math
import time

from lepton_mesh.errors import LeptonError
from lepton_training.engine import Engine
from lepton_training.job import Job
from lepton_training.ports import JobCredentials

log = logging.getLogger(__name__)

_TOKEN_SECONDS = 7 * 24 * 3600
"""The longest that the auth service gives; without the job's certificate a token opens nothing."""
_SPARE_SECONDS = 24 * 3600
"""How much longer than its time a job's token holds: time while no service looks is not counted."""
_RENEW_SECONDS = 12 * 3600.0
"""The age at which a token is replaced; all hold for twice that at least."""
_PAUSE_SECONDS = 600.0
"""After an attempt to replace one."""


class JobKeys:
    """The credentials of one job."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._due = 0.0
        """When (``time.monotonic``) the token's age is looked at again."""

    async def issue(self, job: Job) -> JobCredentials:
        """New ones, limited to what ``job`` reads and writes. Raises LeptonError."""
        return await self._engine.credentials.issue(
            job.workspace,
            job.name,
            reads=_reads(job),
            writes=[job.spec["model"], job.name],
            ttl_seconds=_token_seconds(job),
        )

    async def renew(self, job: Job) -> None:
        """Replaces the token in the job's directory where it is old: a job may run for longer than
        any token holds. Where that fails, it is tried again later."""
        files = self._engine.files
        if time.monotonic() < self._due or files.token_age(job) < _RENEW_SECONDS:
            return
        self._due = time.monotonic() + _PAUSE_SECONDS
        try:
            issued = await self.issue(job)
            await asyncio.to_thread(files.write_token, job, issued.access_token)
        except (LeptonError, OSError):
            log.warning(
                "a job's token cannot be replaced; trying again later",
                extra={"job": job.name},
                exc_info=True,
            )


def _token_seconds(job: Job) -> int:
    limit: int = job.spec["resources"]["timeout_seconds"]
    if not limit:
        return _TOKEN_SECONDS
    left = max(0, math.ceil(limit - job.run_seconds))
    return min(_TOKEN_SECONDS, left + _SPARE_SECONDS)


def _reads(job: Job) -> list[str]:
    """What the job's process may read: data, its own code, what it begins with or goes on from."""
    warm, code = job.spec.get("warm_start") or {}, job.spec.get("code")
    also = [warm["retain"]["dataset"]] if warm.get("retain") else []
    also += [code["artifact"]] if code else []
    also += [job.checkpoint.artifact] if job.checkpoint else []
    return [job.spec["dataset"], *also, *(artifact for artifact, _ in job.warm_files.values())]
