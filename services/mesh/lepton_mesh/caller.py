"""Who asks, and who carries: the identity behind the call being served.

The identity interceptor sets the caller before a servicer runs, so domain code asks
:func:`current_caller` and never reads metadata. Work that a service does for itself (a
reaper, a worker tailing a job) says so with :func:`acting_as_service`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Literal

from lepton_mesh.errors import PermissionDenied
from lepton_mesh.interceptors.deadline import without_deadline

if TYPE_CHECKING:
    from lepton_mesh.spiffe import SpiffeId

CallerKind = Literal["user", "job", "service", "anonymous"]


class Role(IntEnum):
    """What a user may do in a workspace; a higher role includes the lower ones."""

    NONE = 0
    """Jobs, services and anonymous callers: their rights come from the table and their grants."""
    VIEWER = 1
    DEVELOPER = 2
    ADMIN = 3


class ResourceNotGranted(PermissionDenied):
    reason = "RESOURCE_NOT_GRANTED"


@dataclass(frozen=True, slots=True)
class Caller:
    """The identity that a call is authorized as."""

    kind: CallerKind
    subject: str
    """``users/ada``, ``jobs/7f`` or ``services/storage``; "" if anonymous."""
    workspace: str
    """The id of the workspace whose resources this call is about; "" where it names none."""
    role: Role = Role.NONE
    peer: SpiffeId | None = None
    """The process at the other end of the connection; None only on a listener without mTLS."""
    token: str = field(default="", repr=False)
    """The JWT as it came, to travel on with calls made for this caller."""
    reads: frozenset[str] = frozenset()
    """Resource names a job may read, each with everything below it."""
    writes: frozenset[str] = frozenset()
    """Resource names a job may change, each with everything below it."""

    def require_read(self, name: str) -> None:
        """Raises ResourceNotGranted if this is a job whose grants do not cover ``name``.

        Users and services pass: the authorization table and the workspace bound them.
        """
        if self.kind == "job" and not _covers(self.reads | self.writes, name):
            raise ResourceNotGranted(
                f"the job may not read '{name}'; name it as an input in the job's spec", name=name
            )

    def require_write(self, name: str) -> None:
        """Raises ResourceNotGranted if this is a job that may not change ``name``."""
        if self.kind == "job" and not _covers(self.writes, name):
            raise ResourceNotGranted(
                f"the job may not change '{name}'; name it as an output in the job's spec",
                name=name,
            )


_caller: ContextVar[Caller | None] = ContextVar("lepton_caller", default=None)
_own_workspace: ContextVar[str | None] = ContextVar("lepton_own_workspace", default=None)


def current_caller() -> Caller:
    """The caller of the RPC being served; LookupError outside one (a bug, not bad input)."""
    caller = _caller.get()
    if caller is None:
        raise LookupError("no RPC is being served here; use acting_as_service for own work")
    return caller


def set_caller(caller: Caller) -> None:
    """Makes ``caller`` the current one for the rest of this task.

    For interceptors and transport adapters, each of which serves a call in a task of its own.
    """
    _caller.set(caller)


@contextmanager
def acting_as_service(workspace: str) -> Iterator[None]:
    """Calls made inside carry this service's own authority in ``workspace``, and no user's token.

    The called service allows it only where its authorization rule names this service.
    ``workspace`` is "" for calls that concern no workspace. The deadline of the call being
    served does not bind them: own work often outlives the call that began it.
    """
    token = _own_workspace.set(workspace)
    try:
        with without_deadline():
            yield
    finally:
        _own_workspace.reset(token)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What an outgoing call presents: a caller's token, or a workspace on own authority."""

    token: str = field(default="", repr=False)
    workspace: str | None = None


def outgoing_credentials() -> Credentials:
    """The credentials of calls made from here; empty outside a call and acting_as_service."""
    workspace = _own_workspace.get()
    if workspace is not None:
        return Credentials(workspace=workspace)
    caller = _caller.get()
    if caller is None:
        return Credentials()
    if caller.token:
        return Credentials(token=caller.token)
    return Credentials()


def _covers(granted: frozenset[str], name: str) -> bool:
    return any(name == grant or name.startswith(grant + "/") for grant in granted)
