"""etcd's users and roles. Users have no password: the name in the certificate is the user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from lepton_mesh.etcd.errors import EtcdError
from lepton_mesh.etcd.keys import prefix_end
from lepton_mesh.etcd.v3 import etcd_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from lepton_mesh.etcd.client import EtcdClient

Right = Literal["read", "write", "readwrite"]

_RIGHTS = {
    "read": pb.Permission.TYPE_READ,
    "write": pb.Permission.TYPE_WRITE,
    "readwrite": pb.Permission.TYPE_READWRITE,
}


class EtcdAdmin:
    """Administration of users; with authentication on, for the user root only.

    Every method may be repeated: what is there already stays.
    """

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    async def add_user(self, user: str) -> None:
        request = pb.AuthUserAddRequest(name=user, options=pb.UserAddOptions(no_password=True))
        await self._add("UserAdd", request, pb.AuthUserAddResponse)

    async def add_role(self, role: str) -> None:
        await self._add("RoleAdd", pb.AuthRoleAddRequest(name=role), pb.AuthRoleAddResponse)

    async def grant_prefix(self, role: str, prefix: str, right: Right) -> None:
        """Lets ``role`` read or write every key below ``prefix``."""
        first = prefix.encode()
        permission = pb.Permission(permType=_RIGHTS[right], key=first, range_end=prefix_end(first))
        await self._call(
            "RoleGrantPermission",
            pb.AuthRoleGrantPermissionRequest(name=role, perm=permission),
            pb.AuthRoleGrantPermissionResponse,
        )

    async def grant_role(self, user: str, role: str) -> None:
        request = pb.AuthUserGrantRoleRequest(user=user, role=role)
        await self._call("UserGrantRole", request, pb.AuthUserGrantRoleResponse)

    async def enable_auth(self) -> None:
        """Turns authentication on; needs a user root that has the role root."""
        await self._call("AuthEnable", pb.AuthEnableRequest(), pb.AuthEnableResponse)

    async def version(self) -> str:
        """The version of the member that answers, such as ``3.4.23``."""
        response = await self._client.transport.unary(
            "/etcdserverpb.Maintenance/Status",
            pb.StatusRequest(),
            pb.StatusResponse,
            safe=True,
            timeout_seconds=self._client.timeout_seconds,
        )
        return response.version

    async def _add(self, rpc: str, request: Message, response_type: type[Message]) -> None:
        try:
            await self._call(rpc, request, response_type)
        except EtcdError as error:
            if "already exists" not in error.message:
                raise

    async def _call(self, rpc: str, request: Message, response_type: type[Message]) -> None:
        await self._client.transport.unary(
            f"/etcdserverpb.Auth/{rpc}",
            request,
            response_type,
            safe=True,
            timeout_seconds=self._client.timeout_seconds,
        )
