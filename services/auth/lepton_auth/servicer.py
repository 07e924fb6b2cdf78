"""AuthService: each method parses its request, calls the domain and converts the answer."""

from __future__ import annotations

from typing import Any

from google.protobuf import empty_pb2

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton.api.auth.v1 import auth_pb2_grpc
from lepton_auth import convert
from lepton_auth.accounts import Accounts
from lepton_auth.adapters.signing_keys import FileSigningKeys
from lepton_auth.api_keys import KeyRing
from lepton_auth.audit import Auditor
from lepton_auth.errors import InvalidCredential
from lepton_auth.login import Login
from lepton_auth.verified_tokens import by_password, expiry
from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Role, current_caller
from lepton_mesh.resources import Page, check_id, parse_name

_METHOD = "/lepton.api.auth.v1.AuthService/"
_ANY_ROLE = Rule(min_role=Role.VIEWER)
_ADMIN = Rule(min_role=Role.ADMIN)

TABLE = AuthorizationTable(
    {
        _METHOD + "IssueToken": Rule(public=True),
        _METHOD + "GetJwks": Rule(public=True),
        _METHOD + "GetCaller": Rule(min_role=Role.VIEWER, jobs=True, peers=True),
        _METHOD + "CreateUser": _ADMIN,
        # The domain lets those who are no admin read and change only themselves.
        _METHOD + "GetUser": _ANY_ROLE,
        _METHOD + "UpdateUser": _ANY_ROLE,
        _METHOD + "ListUsers": _ADMIN,
        _METHOD + "DeleteUser": _ADMIN,
        _METHOD + "CreateApiKey": _ANY_ROLE,
        _METHOD + "ListApiKeys": _ANY_ROLE,
        _METHOD + "DeleteApiKey": _ANY_ROLE,
        _METHOD + "CreateWorkspace": _ADMIN,
        _METHOD + "ListWorkspaces": _ANY_ROLE,
        _METHOD + "SetRole": _ADMIN,
        _METHOD + "ListAuditEvents": _ADMIN,
    }
)


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Users, their credentials and their roles."""

    def __init__(
        self,
        accounts: Accounts,
        login: Login,
        key_ring: KeyRing,
        auditor: Auditor,
        signing_keys: FileSigningKeys,
    ) -> None:
        self._accounts = accounts
        self._login = login
        self._key_ring = key_ring
        self._auditor = auditor
        self._signing_keys = signing_keys

    async def IssueToken(
        self, request: pb.IssueTokenRequest, context: Any
    ) -> pb.IssueTokenResponse:
        workspace = check_id(request.workspace, "workspace") if request.workspace else ""
        shown = request.WhichOneof("credential")
        if shown == "password":
            user, password = request.password.user, request.password.password
            grant = await self._login.with_password(user, password, workspace)
        elif shown == "api_key":
            grant = await self._login.with_api_key(request.api_key, workspace)
        elif shown == "refresh_token":
            grant = await self._login.with_refresh_token(request.refresh_token, workspace)
        else:
            raise InvalidCredential("set one of password, api_key, refresh_token")
        return convert.grant_message(grant)

    async def GetJwks(self, request: pb.GetJwksRequest, context: Any) -> pb.Jwks:
        return pb.Jwks(keys=[pb.JsonWebKey(**key) for key in self._signing_keys.jwks()])

    async def GetCaller(self, request: pb.GetCallerRequest, context: Any) -> pb.CallerInfo:
        caller = current_caller()
        return convert.caller_message(caller, expiry(caller))

    async def CreateUser(self, request: pb.CreateUserRequest, context: Any) -> pb.User:
        user_id = check_id(request.user_id, "user_id")
        role = convert.role(request.role)
        caller = current_caller()
        user = await self._accounts.create_user(
            caller,
            user_id,
            request.user.display_name,
            request.user.password,
            role,
            by_password=by_password(caller),
        )
        return convert.user_message(user, role)

    async def GetUser(self, request: pb.GetUserRequest, context: Any) -> pb.User:
        (user_id,) = parse_name("users/{user}", request.name)
        return convert.user_message(*await self._accounts.get_user(current_caller(), user_id))

    async def ListUsers(self, request: pb.ListUsersRequest, context: Any) -> pb.ListUsersResponse:
        page = Page.of(request, "users", str)
        (after,) = page.after or ("",)
        members = await self._accounts.list_users(current_caller(), after, page.size + 1)
        return convert.users_page(page, members)

    async def UpdateUser(self, request: pb.UpdateUserRequest, context: Any) -> pb.User:
        caller = current_caller()
        (user_id,) = parse_name("users/{user}", request.user.name)
        user, role = await self._accounts.update_user(
            caller,
            user_id,
            request.user.etag,
            convert.user_change(request),
            by_password=by_password(caller),
        )
        return convert.user_message(user, role)

    async def DeleteUser(self, request: pb.DeleteUserRequest, context: Any) -> empty_pb2.Empty:
        (user_id,) = parse_name("users/{user}", request.name)
        caller = current_caller()
        await self._accounts.delete_user(caller, user_id, by_password=by_password(caller))
        return empty_pb2.Empty()

    async def CreateApiKey(
        self, request: pb.CreateApiKeyRequest, context: Any
    ) -> pb.CreateApiKeyResponse:
        caller = current_caller()
        key, secret = await self._key_ring.create(
            caller,
            request.display_name,
            convert.role(request.role),
            convert.expire_time(request),
            by_password=by_password(caller),
        )
        return pb.CreateApiKeyResponse(api_key=convert.api_key_message(key), secret=secret)

    async def ListApiKeys(
        self, request: pb.ListApiKeysRequest, context: Any
    ) -> pb.ListApiKeysResponse:
        page = Page.of(request, "apiKeys", int, str)
        cursor = convert.api_key_cursor(page)
        keys = await self._key_ring.list(current_caller(), cursor, page.size + 1)
        return convert.api_keys_page(page, keys)

    async def DeleteApiKey(self, request: pb.DeleteApiKeyRequest, context: Any) -> empty_pb2.Empty:
        (key_id,) = parse_name("apiKeys/{key}", request.name)
        await self._key_ring.delete(current_caller(), key_id)
        return empty_pb2.Empty()

    async def CreateWorkspace(
        self, request: pb.CreateWorkspaceRequest, context: Any
    ) -> pb.Workspace:
        workspace_id = check_id(request.workspace_id, "workspace_id")
        caller = current_caller()
        workspace, role = await self._accounts.create_workspace(
            caller, workspace_id, request.display_name, by_password=by_password(caller)
        )
        return convert.workspace_message(workspace, role)

    async def ListWorkspaces(
        self, request: pb.ListWorkspacesRequest, context: Any
    ) -> pb.ListWorkspacesResponse:
        page = Page.of(request, "workspaces", str)
        (after,) = page.after or ("",)
        workspaces = await self._accounts.list_workspaces(current_caller(), after, page.size + 1)
        return convert.workspaces_page(page, workspaces)

    async def SetRole(self, request: pb.SetRoleRequest, context: Any) -> pb.User:
        (user_id,) = parse_name("users/{user}", request.user)
        role = convert.role(request.role)
        caller = current_caller()
        changed = await self._accounts.set_role(
            caller, user_id, role, by_password=by_password(caller)
        )
        return convert.user_message(*changed)

    async def ListAuditEvents(
        self, request: pb.ListAuditEventsRequest, context: Any
    ) -> pb.ListAuditEventsResponse:
        page = Page.of(request, "auditEvents", int)
        (before,) = page.after or (None,)
        workspace = current_caller().workspace
        events = await self._auditor.list(workspace, before, page.size + 1)
        return convert.audit_page(page, events)
