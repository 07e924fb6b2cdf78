"""Every conversion between the messages of lepton.api.auth.v1 and the domain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton_auth.accounts import UserChange
from lepton_auth.errors import InvalidApiKey, InvalidRole
from lepton_auth.login import Grant
from lepton_auth.records import ApiKey, AuditEvent, User, Workspace
from lepton_mesh.caller import Caller, Role
from lepton_mesh.resources import InvalidPage, Page, masked_fields

USER_FIELDS = ("display_name", "password", "disabled")
"""What UpdateUser may change."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def role(value: int) -> Role:
    """The domain's role; raises InvalidRole for a number that is none."""
    if value not in pb.Role.values():
        raise InvalidRole(f"{value} is not a role; use viewer, developer or admin")
    return Role(value)


def role_message(value: Role) -> str:
    """The enum value's name, which messages take in place of its number."""
    return pb.Role.Name(int(value))


def user_change(request: pb.UpdateUserRequest) -> UserChange:
    """What an UpdateUser request changes; raises InvalidUpdateMask."""
    fields = masked_fields(request.update_mask, request.user, USER_FIELDS)
    return UserChange(
        display_name=request.user.display_name if "display_name" in fields else None,
        password=request.user.password if "password" in fields else None,
        disabled=request.user.disabled if "disabled" in fields else None,
    )


def user_message(user: User, in_workspace: Role) -> pb.User:
    return pb.User(
        name=user.name,
        display_name=user.display_name,
        disabled=user.disabled,
        role=role_message(in_workspace),
        create_time=timestamp(user.created),
        etag=user.etag,
    )


def workspace_message(workspace: Workspace, callers: Role) -> pb.Workspace:
    return pb.Workspace(
        name=f"workspaces/{workspace.id}",
        display_name=workspace.display_name,
        role=role_message(callers),
        create_time=timestamp(workspace.created),
    )


def api_key_message(key: ApiKey) -> pb.ApiKey:
    return pb.ApiKey(
        name=key.name,
        display_name=key.display_name,
        role=role_message(key.role),
        user=f"users/{key.user}",
        create_time=timestamp(key.created),
        expire_time=timestamp(key.expires),
        last_used_time=timestamp(key.last_used),
    )


def audit_message(event: AuditEvent) -> pb.AuditEvent:
    return pb.AuditEvent(
        name=f"auditEvents/{event.id}",
        time=timestamp(event.time),
        subject=event.subject,
        action=event.action,
        resource=event.resource,
        allowed=event.allowed,
        reason=event.reason,
        trace_id=event.trace_id,
    )


def grant_message(grant: Grant) -> pb.IssueTokenResponse:
    return pb.IssueTokenResponse(
        access_token=grant.access_token,
        expire_time=timestamp(grant.expires),
        refresh_token=grant.refresh_token,
        workspace=f"workspaces/{grant.workspace}",
        role=role_message(grant.role),
    )


def caller_message(caller: Caller, expires: datetime | None) -> pb.CallerInfo:
    return pb.CallerInfo(
        subject=caller.subject,
        workspace=f"workspaces/{caller.workspace}" if caller.workspace else "",
        role=role_message(caller.role),
        expire_time=timestamp(expires),
    )


def users_page(page: Page, members: Sequence[tuple[User, Role]]) -> pb.ListUsersResponse:
    """``members`` holds one more than the page when there is a next one; so in all lists."""
    shown = members[: page.size]
    more = len(members) > page.size
    return pb.ListUsersResponse(
        users=[user_message(user, role) for user, role in shown],
        next_page_token=page.token(shown[-1][0].id) if more else "",
    )


def workspaces_page(
    page: Page, workspaces: Sequence[tuple[Workspace, Role]]
) -> pb.ListWorkspacesResponse:
    shown = workspaces[: page.size]
    more = len(workspaces) > page.size
    return pb.ListWorkspacesResponse(
        workspaces=[workspace_message(workspace, role) for workspace, role in shown],
        next_page_token=page.token(shown[-1][0].id) if more else "",
    )


def api_keys_page(page: Page, keys: Sequence[ApiKey]) -> pb.ListApiKeysResponse:
    shown = keys[: page.size]
    more = len(keys) > page.size
    return pb.ListApiKeysResponse(
        api_keys=[api_key_message(key) for key in shown],
        next_page_token=page.token(_microseconds(shown[-1].created), shown[-1].id) if more else "",
    )


def audit_page(page: Page, events: Sequence[AuditEvent]) -> pb.ListAuditEventsResponse:
    shown = events[: page.size]
    more = len(events) > page.size
    return pb.ListAuditEventsResponse(
        audit_events=[audit_message(event) for event in shown],
        next_page_token=page.token(shown[-1].id) if more else "",
    )


def api_key_cursor(page: Page) -> tuple[datetime, str] | None:
    """The last key of the page before. Raises InvalidPage for a time that does not exist."""
    if page.after is None:
        return None
    microseconds, id_ = page.after
    try:
        return _EPOCH + timedelta(microseconds=microseconds), id_
    except OverflowError:
        raise InvalidPage("page_token is not one that this list gave; begin without one") from None


def expire_time(request: pb.CreateApiKeyRequest) -> datetime | None:
    """When the new key runs out; None for never. Raises InvalidApiKey for no real time."""
    if not request.HasField("expire_time"):
        return None
    try:
        return request.expire_time.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidApiKey("expire_time is not a time between the years 1 and 9999") from None


def timestamp(value: datetime | None) -> Timestamp | None:
    if value is None:
        return None
    message = Timestamp()
    message.FromDatetime(value)
    return message


def _microseconds(value: datetime) -> int:
    return (value - _EPOCH) // timedelta(microseconds=1)
