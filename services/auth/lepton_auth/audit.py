"""The record of what was done and what was refused.

A change and its event are stored in one transaction, so neither is there without the other. A
refusal is stored by itself, after the change was rolled back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

from lepton_auth.ports import Records, Store
from lepton_auth.records import AuditEvent
from lepton_mesh.errors import LeptonError

T = TypeVar("T")

_FORGOTTEN_AT_ONCE = 1000
"""Events."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Who tries what, on what, where."""

    subject: str
    """``users/ada``; "" when not known."""
    workspaces: Sequence[str]
    """Whose admins may see it; usually one."""
    action: str
    resource: str


class Auditor:
    """Makes changes and writes down that they were made, or that they were refused."""

    def __init__(
        self, store: Store, clock: Callable[[], datetime], trace_id: Callable[[], str]
    ) -> None:
        """``trace_id`` gives that of the running call; contexts travel into transactions."""
        self._store = store
        self._clock = clock
        self._trace_id = trace_id

    async def change(self, attempt: Attempt, function: Callable[[Records], T]) -> T:
        """Runs ``function`` as one transaction and records the outcome; raises what it raises."""

        def recorded(records: Records) -> T:
            result = function(records)
            self.record(records, attempt)
            return result

        try:
            return await self._store.write(recorded)
        except LeptonError as error:
            await self.refused(attempt, error.reason)
            raise

    async def refused(self, attempt: Attempt, reason: str) -> None:
        """Records that ``attempt`` was turned down, by itself."""
        await self._store.write(lambda records: self.record(records, attempt, reason))

    async def list(self, workspace: str, before: int | None, limit: int) -> Sequence[AuditEvent]:
        """Events of ``workspace`` with ids below ``before``, newest first."""
        return await self._store.read(
            lambda records: records.audit.of_workspace(workspace, before, limit)
        )

    async def forget(self, before: datetime) -> int:
        """Deletes the events from before that time; returns how many."""
        forgotten = 0
        while True:  # in transactions that are short, so that nobody waits long for one
            count = await self._store.write(
                lambda records: records.audit.delete_oldest(before, _FORGOTTEN_AT_ONCE)
            )
            forgotten += count
            if count < _FORGOTTEN_AT_ONCE:
                return forgotten

    def record(self, records: Records, attempt: Attempt, reason: str = "") -> None:
        """Adds the event to a running transaction; a ``reason`` says that it was refused."""
        for workspace in attempt.workspaces:
            records.audit.add(
                AuditEvent(
                    workspace=workspace,
                    time=self._clock(),
                    subject=attempt.subject,
                    action=attempt.action,
                    resource=attempt.resource,
                    allowed=not reason,
                    reason=reason,
                    trace_id=self._trace_id(),
                )
            )
