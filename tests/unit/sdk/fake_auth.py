"""The auth service of the fake gateway."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, NoReturn

import grpc
from google.protobuf.empty_pb2 import Empty

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from tests.unit.sdk.fake_refusals import not_found, refuse

API_KEY = "lpk_fake"
PASSWORD = "correct horse battery"


class Auth(auth_pb2_grpc.AuthServiceServicer):
    """Tokens are numbers; a refresh token works once, and any other use of it ends them all."""

    def __init__(self) -> None:
        self.ttl_seconds = 900.0
        self.issued: list[auth_pb2.IssueTokenRequest] = []
        self.valid: dict[str, float] = {}
        self.refresh_token = "r0"
        self.users = {"users/root": auth_pb2.User(name="users/root", role=auth_pb2.ROLE_ADMIN)}
        self.keys: dict[str, auth_pb2.ApiKey] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def IssueToken(self, request: Any, context: Any) -> Any:
        with self._lock:
            self.issued.append(request)
            number = next(self._numbers)
            refresh_token = ""
            if request.WhichOneof("credential") == "refresh_token":
                if request.refresh_token != self.refresh_token:
                    self.refresh_token = ""
                    self._refuse(context)
                self.refresh_token = refresh_token = f"r{number}"
            elif request.WhichOneof("credential") == "password":
                if request.password.password != PASSWORD:
                    self._refuse(context)
                self.refresh_token = refresh_token = f"r{number}"
            elif request.api_key != API_KEY:
                self._refuse(context)
            expires = time.time() + self.ttl_seconds
            self.valid[f"t{number}"] = expires
        answer = auth_pb2.IssueTokenResponse(
            access_token=f"t{number}",
            refresh_token=refresh_token,
            workspace=f"workspaces/{request.workspace or 'default'}",
            role=auth_pb2.ROLE_ADMIN,
        )
        answer.expire_time.FromNanoseconds(int(expires * 1e9))
        return answer

    def _refuse(self, context: Any) -> NoReturn:
        refuse(
            context,
            grpc.StatusCode.UNAUTHENTICATED,
            "CREDENTIAL_INVALID",
            "the credential does not hold; log in again with `lepton login`",
        )

    def GetCaller(self, request: Any, context: Any) -> Any:
        return auth_pb2.CallerInfo(
            subject="users/root", workspace="workspaces/default", role=auth_pb2.ROLE_ADMIN
        )

    def ListUsers(self, request: Any, context: Any) -> Any:
        return auth_pb2.ListUsersResponse(users=self.users.values())

    def CreateUser(self, request: Any, context: Any) -> Any:
        user = auth_pb2.User(
            name=f"users/{request.user_id}",
            display_name=request.user.display_name,
            role=request.role,
        )
        self.users[user.name] = user
        return user

    def SetRole(self, request: Any, context: Any) -> Any:
        self.users[request.user].role = request.role
        return self.users[request.user]

    def UpdateUser(self, request: Any, context: Any) -> Any:
        return self.users[request.user.name]

    def DeleteUser(self, request: Any, context: Any) -> Any:
        if self.users.pop(request.name, None) is None:
            not_found(context, request.name)
        return Empty()

    def CreateApiKey(self, request: Any, context: Any) -> Any:
        key = auth_pb2.ApiKey(
            name=f"apiKeys/k{len(self.keys) + 1}",
            display_name=request.display_name,
            role=request.role,
            expire_time=request.expire_time if request.HasField("expire_time") else None,
        )
        self.keys[key.name] = key
        return auth_pb2.CreateApiKeyResponse(api_key=key, secret="lpk_new")

    def ListApiKeys(self, request: Any, context: Any) -> Any:
        return auth_pb2.ListApiKeysResponse(api_keys=self.keys.values())

    def DeleteApiKey(self, request: Any, context: Any) -> Any:
        if self.keys.pop(request.name, None) is None:
            not_found(context, request.name)
        return Empty()
