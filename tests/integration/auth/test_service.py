"""The auth service over real TLS, etcd and SQLite: what callers see."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton.api.auth.v1 import auth_pb2_grpc
from lepton_mesh.caller import acting_as_service
from lepton_mesh.errors import LeptonError
from tests.service_mesh import bearer

if TYPE_CHECKING:
    from .conftest import Auth

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]


async def _refused(call: Any) -> tuple[str, str]:
    with pytest.raises(LeptonError) as caught:
        await call
    return caught.value.wire.grpc_name, caught.value.reason


async def test_who_am_i(auth: Auth) -> None:
    """A user by its token, a service by its certificate, and nobody without either."""
    me = await auth.users.GetCaller(pb.GetCallerRequest(), metadata=bearer(auth.admin))
    assert (me.subject, me.workspace, me.role) == (
        "users/admin",
        "workspaces/default",
        pb.ROLE_ADMIN,
    )
    assert me.HasField("expire_time")
    with acting_as_service("default"):
        service = await auth.users.GetCaller(pb.GetCallerRequest())
    assert (service.subject, service.role) == ("services/gateway", pb.ROLE_UNSPECIFIED)
    assert not service.HasField("expire_time")


async def test_the_life_of_a_user(auth: Auth) -> None:
    """Created, read, changed with an etag, given another role, deleted."""
    token = await auth.new_user("bob", "ROLE_VIEWER")
    admin = bearer(auth.admin)
    bob = await auth.users.GetUser(pb.GetUserRequest(name="users/bob"), metadata=bearer(token))
    assert (bob.role, bob.password, bob.disabled) == (pb.ROLE_VIEWER, "", False)
    bob.display_name = "Bob"
    request = pb.UpdateUserRequest(user=bob, update_mask=FieldMask(paths=["display_name"]))
    changed = await auth.users.UpdateUser(request, metadata=bearer(token))
    assert changed.display_name == "Bob"
    stale = auth.users.UpdateUser(request, metadata=bearer(token))
    assert await _refused(stale) == ("ABORTED", "ETAG_MISMATCH")
    changed = await auth.users.SetRole(
        pb.SetRoleRequest(user="users/bob", role=pb.ROLE_DEVELOPER), metadata=admin
    )
    assert changed.role == pb.ROLE_DEVELOPER
    listed = await auth.users.ListUsers(pb.ListUsersRequest(page_size=1), metadata=admin)
    assert [user.name for user in listed.users] == ["users/admin"]
    rest = await auth.users.ListUsers(
        pb.ListUsersRequest(page_size=1, page_token=listed.next_page_token), metadata=admin
    )
    assert [user.name for user in rest.users] == ["users/bob"]
    await auth.users.DeleteUser(pb.DeleteUserRequest(name="users/bob"), metadata=admin)
    gone = auth.users.GetUser(pb.GetUserRequest(name="users/bob"), metadata=admin)
    assert await _refused(gone) == ("NOT_FOUND", "USER_NOT_FOUND")


async def test_the_life_of_an_api_key(auth: Auth) -> None:
    """Created, used, listed by pages, deleted; a key makes no further keys."""
    admin = bearer(auth.admin)
    keys = [
        await auth.users.CreateApiKey(
            pb.CreateApiKeyRequest(display_name=name, role=pb.ROLE_VIEWER), metadata=admin
        )
        for name in ("one", "two", "three")
    ]
    answer = await auth.users.IssueToken(pb.IssueTokenRequest(api_key=keys[0].secret))
    assert (answer.role, answer.refresh_token) == (pb.ROLE_VIEWER, "")
    child = auth.users.CreateApiKey(pb.CreateApiKeyRequest(), metadata=bearer(answer.access_token))
    assert await _refused(child) == ("PERMISSION_DENIED", "PASSWORD_LOGIN_REQUIRED")
    names, token = [], ""
    while True:
        page = await auth.users.ListApiKeys(
            pb.ListApiKeysRequest(page_size=2, page_token=token), metadata=admin
        )
        names += [key.display_name for key in page.api_keys]
        if not (token := page.next_page_token):
            break
    assert names == ["three", "two", "one"]
    for key in keys:
        request = pb.DeleteApiKeyRequest(name=key.api_key.name)
        await auth.users.DeleteApiKey(request, metadata=admin)
    used = auth.users.IssueToken(pb.IssueTokenRequest(api_key=keys[0].secret))
    assert await _refused(used) == ("UNAUTHENTICATED", "CREDENTIAL_INVALID")


async def test_refresh_tokens_over_the_wire(auth: Auth) -> None:
    """Traded once; the second time ends the family."""
    first = await auth.log_in("admin", auth.mesh.admin_password)
    second = await auth.users.IssueToken(pb.IssueTokenRequest(refresh_token=first.refresh_token))
    for used_up in (first.refresh_token, second.refresh_token):
        again = auth.users.IssueToken(pb.IssueTokenRequest(refresh_token=used_up))
        assert await _refused(again) == ("UNAUTHENTICATED", "CREDENTIAL_INVALID")


async def test_the_audit_is_paged_and_traced(auth: Auth) -> None:
    """Newest first, each event with the trace of its call."""
    page = await auth.users.ListAuditEvents(
        pb.ListAuditEventsRequest(page_size=2), metadata=bearer(auth.admin)
    )
    assert len(page.audit_events) == 2
    assert all(len(event.trace_id) == 32 for event in page.audit_events)
    older = await auth.users.ListAuditEvents(
        pb.ListAuditEventsRequest(page_size=2, page_token=page.next_page_token),
        metadata=bearer(auth.admin),
    )
    numbers = [
        int(event.name.removeprefix("auditEvents/"))
        for event in (*page.audit_events, *older.audit_events)
    ]
    assert numbers == sorted(numbers, reverse=True)


async def test_workspaces_bound_what_is_seen(auth: Auth) -> None:
    """A new workspace has one member, its maker, who logs in to it by name."""
    workspace = await auth.users.CreateWorkspace(
        pb.CreateWorkspaceRequest(workspace_id="lab", display_name="Lab"),
        metadata=bearer(auth.admin),
    )
    assert (workspace.name, workspace.role) == ("workspaces/lab", pb.ROLE_ADMIN)
    lab = bearer((await auth.log_in("admin", auth.mesh.admin_password, "lab")).access_token)
    members = await auth.users.ListUsers(pb.ListUsersRequest(), metadata=lab)
    assert [user.name for user in members.users] == ["users/admin"]
    own = await auth.users.ListWorkspaces(pb.ListWorkspacesRequest(), metadata=lab)
    assert [one.name for one in own.workspaces] == ["workspaces/default", "workspaces/lab"]
    unnamed = auth.log_in("admin", auth.mesh.admin_password, "")
    assert await _refused(unnamed) == ("FAILED_PRECONDITION", "WORKSPACE_REQUIRED")
    request = pb.SetRoleRequest(user="users/admin", role=pb.ROLE_UNSPECIFIED)
    last = auth.users.SetRole(request, metadata=lab)
    assert await _refused(last) == ("FAILED_PRECONDITION", "LAST_ADMIN")


async def test_job_credentials_are_for_training_only(auth: Auth) -> None:
    """Neither an admin nor another service gets them, and no client of the gateway uses them."""
    request = pb.IssueJobCredentialsRequest(job="jobs/j1", writes=["models/m"])
    call = auth.certificates.IssueJobCredentials(request, metadata=bearer(auth.admin))
    assert await _refused(call) == ("PERMISSION_DENIED", "CALLER_NOT_ALLOWED")
    training = await auth.mesh.member("training")
    stub: Any = auth_pb2_grpc.CertificateServiceStub(training.channel("auth"))
    with acting_as_service("default"):
        issued = await stub.IssueJobCredentials(request)
    assert issued.join_token
    token = bearer(issued.access_token)
    call = auth.users.GetCaller(pb.GetCallerRequest(), metadata=token)
    assert await _refused(call) == ("PERMISSION_DENIED", "PEER_TOKEN_MISMATCH")
    carried: Any = auth_pb2_grpc.AuthServiceStub(training.channel("auth"))
    me = await carried.GetCaller(pb.GetCallerRequest(), metadata=token)
    assert (me.subject, me.workspace) == ("jobs/j1", "workspaces/default")


_NEVER = Timestamp(seconds=10**15)

BAD_INPUT = [
    ("IssueToken", pb.IssueTokenRequest(), "INVALID_CREDENTIAL"),
    ("IssueToken", pb.IssueTokenRequest(api_key="x", workspace="No Id"), "INVALID_ID"),
    ("CreateUser", pb.CreateUserRequest(user_id="Not An Id", role="ROLE_VIEWER"), "INVALID_ID"),
    ("CreateUser", pb.CreateUserRequest(user_id="x" * 64, role="ROLE_VIEWER"), "INVALID_ID"),
    ("CreateUser", pb.CreateUserRequest(user_id="eve", role="ROLE_VIEWER"), "INVALID_USER"),
    (
        "CreateUser",
        pb.CreateUserRequest(user_id="eve", user=pb.User(password="x" * 12)),
        "INVALID_ROLE",
    ),
    ("CreateUser", pb.CreateUserRequest(user_id="eve", role=7), "INVALID_ROLE"),
    ("GetUser", pb.GetUserRequest(name="bob"), "INVALID_NAME"),
    ("GetUser", pb.GetUserRequest(name="users/../x"), "INVALID_NAME"),
    ("ListUsers", pb.ListUsersRequest(page_size=-1), "INVALID_PAGE"),
    ("ListUsers", pb.ListUsersRequest(page_token="nonsense"), "INVALID_PAGE"),
    ("ListUsers", pb.ListUsersRequest(page_token="WyJhIl0"), "INVALID_PAGE"),
    # ["apiKeys",9000000000000000000,"k"]: a time that does not exist
    (
        "ListApiKeys",
        pb.ListApiKeysRequest(page_token="WyJhcGlLZXlzIiw5MDAwMDAwMDAwMDAwMDAwMDAwLCJrIl0"),
        "INVALID_PAGE",
    ),
    ("UpdateUser", pb.UpdateUserRequest(user=pb.User(name="users/admin")), "INVALID_UPDATE_MASK"),
    (
        "UpdateUser",
        pb.UpdateUserRequest(
            user=pb.User(name="users/admin"), update_mask=FieldMask(paths=["role"])
        ),
        "INVALID_UPDATE_MASK",
    ),
    (
        "UpdateUser",
        pb.UpdateUserRequest(user=pb.User(name="users/admin", password="short")),
        "INVALID_USER",
    ),
    (
        "UpdateUser",
        pb.UpdateUserRequest(user=pb.User(name="users/a", etag="1")),
        "INVALID_UPDATE_MASK",
    ),
    ("DeleteUser", pb.DeleteUserRequest(name=""), "INVALID_NAME"),
    ("CreateApiKey", pb.CreateApiKeyRequest(display_name="a\0"), "INVALID_USER"),
    ("CreateApiKey", pb.CreateApiKeyRequest(display_name="x" * 201), "INVALID_USER"),
    ("CreateApiKey", pb.CreateApiKeyRequest(expire_time=Timestamp(seconds=1)), "INVALID_API_KEY"),
    ("CreateApiKey", pb.CreateApiKeyRequest(expire_time=_NEVER), "INVALID_API_KEY"),
    ("DeleteApiKey", pb.DeleteApiKeyRequest(name="keys/1"), "INVALID_NAME"),
    ("CreateWorkspace", pb.CreateWorkspaceRequest(workspace_id=""), "INVALID_ID"),
    ("SetRole", pb.SetRoleRequest(user="users/admin", role=-1), "INVALID_ROLE"),
    ("ListAuditEvents", pb.ListAuditEventsRequest(page_size=-5), "INVALID_PAGE"),
]


@pytest.mark.parametrize(
    ("method", "request_", "reason"),
    BAD_INPUT,
    ids=[f"{method}-{reason}-{n}" for n, (method, _, reason) in enumerate(BAD_INPUT)],
)
async def test_bad_input(auth: Auth, method: str, request_: Any, reason: str) -> None:
    """Each is INVALID_ARGUMENT with its reason, whatever is stored."""
    metadata = None if method == "IssueToken" else bearer(auth.admin)
    call = getattr(auth.users, method)(request_, metadata=metadata)
    assert await _refused(call) == ("INVALID_ARGUMENT", reason)


@pytest.mark.parametrize(
    ("method", "role"),
    [
        ("CreateUser", "developer"),
        ("ListUsers", "developer"),
        ("DeleteUser", "developer"),
        ("CreateWorkspace", "developer"),
        ("SetRole", "developer"),
        ("ListAuditEvents", "developer"),
    ],
)
async def test_admins_only(auth: Auth, method: str, role: str) -> None:
    """Refused before anything is looked at: the request is not even valid."""
    if "eve" not in _tokens:
        _tokens["eve"] = await auth.new_user("eve", f"ROLE_{role.upper()}")
    request = getattr(pb, f"{method}Request")()
    call = getattr(auth.users, method)(request, metadata=bearer(_tokens["eve"]))
    assert await _refused(call) == ("PERMISSION_DENIED", "ROLE_TOO_LOW")


_tokens: dict[str, str] = {}


async def test_guessing_ends_with_a_retry_time(auth: Auth) -> None:
    """Over the wire too: RESOURCE_EXHAUSTED after ten failures."""
    for _ in range(10):
        wrong = auth.log_in("mallory", "wrong password")
        assert await _refused(wrong) == ("UNAUTHENTICATED", "CREDENTIAL_INVALID")
    more = auth.log_in("mallory", "wrong password")
    assert await _refused(more) == ("RESOURCE_EXHAUSTED", "TOO_MANY_FAILURES")


async def test_serving_without_init_says_what_to_do(tmp_path: Any) -> None:
    """One line that names the remedy, no traceback."""
    clean = {name: value for name, value in os.environ.items() if "LEPTON" not in name}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "lepton_auth", "serve"],
        env=clean | {"LEPTON_STATE_DIR": str(tmp_path), "LEPTON_LOG_LEVEL": "error"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "lepton_auth init" in done.stderr
    assert "Traceback" not in done.stderr
