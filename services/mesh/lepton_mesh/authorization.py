"""Who may call what: one table per service that names every RPC it serves.

    TABLE = AuthorizationTable(
        {
            "/lepton.api.storage.v1.DatasetService/GetDataset": Rule(
                min_role=Role.VIEWER, jobs=True, services=frozenset({"training"})
            ),
        }
    )

A method that the table does not name is refused. The table decides by method alone, so it is
asked before anything is looked up: permission before existence. What a job may touch beyond
that is in its token's grants (:meth:`lepton_mesh.caller.Caller.require_read`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton_mesh.caller import Caller, Role
from lepton_mesh.errors import PermissionDenied

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor


class MethodNotListed(PermissionDenied):
    reason = "METHOD_NOT_LISTED"


class RoleTooLow(PermissionDenied):
    reason = "ROLE_TOO_LOW"


class CallerNotAllowed(PermissionDenied):
    reason = "CALLER_NOT_ALLOWED"


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call one method. The alternatives add up; with none given, nobody may."""

    public: bool = False
    """Anyone may, and no token is looked at; the peer's certificate still is."""
    min_role: Role | None = None
    """Users with at least this role in their token's workspace may."""
    services: frozenset[str] = frozenset()
    """Services that may call on their own behalf, without a user's token."""
    jobs: bool = False
    """Training jobs may, with their own token; the servicer checks its grants."""
    peers: bool = False
    """Any process of the mesh may, on its own behalf, without a user's token."""


class AuthorizationTable(Mapping[str, Rule]):
    """Full method name (``/package.Service/Method``) -> Rule. Fails closed."""

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        for method in rules:
            if not method.startswith("/") or method.count("/") != 2:
                raise ValueError(f"'{method}' is not a full method name (/package.Service/Method)")
        self._rules = dict(rules)

    def __getitem__(self, method: str) -> Rule:
        return self._rules[method]

    def __iter__(self) -> Iterator[str]:
        return iter(self._rules)

    def __len__(self) -> int:
        return len(self._rules)

    def __or__(self, other: Mapping[str, Rule]) -> AuthorizationTable:
        """Both tables together; a method may be named in one of them only."""
        if twice := self._rules.keys() & other.keys():
            raise ValueError(f"two rules for {', '.join(sorted(twice))}")
        return AuthorizationTable({**self._rules, **other})

    def rule(self, method: str) -> Rule:
        """The method's rule; raises MethodNotListed."""
        found = self._rules.get(method)
        if found is None:
            raise MethodNotListed(
                f"nobody may call {method}; name it in the authorization table", method=method
            )
        return found


def authorize(rule: Rule, caller: Caller, method: str) -> None:
    """Raises a PermissionDenied if ``rule`` does not let ``caller`` in."""
    if rule.public:
        return
    if caller.kind == "user" and rule.min_role is not None:
        if caller.role >= rule.min_role:
            return
        need, have = rule.min_role.name.lower(), caller.role.name.lower()
        raise RoleTooLow(
            f"{method} needs the role '{need}' in workspace '{caller.workspace}' and yours is "
            f"'{have}'; ask an admin of the workspace",
            method=method,
            required=need,
            role=have,
            workspace=caller.workspace,
        )
    if caller.kind == "job" and (rule.jobs or (rule.peers and not caller.token)):
        return
    if caller.kind == "service" and (
        rule.peers or caller.subject.removeprefix("services/") in rule.services
    ):
        return
    raise CallerNotAllowed(
        f"a {caller.kind} may not call {method}"
        + (f" on its own behalf as '{caller.subject}'" if caller.kind == "service" else ""),
        method=method,
        caller_kind=caller.kind,
    )


def check_complete(table: Mapping[str, Rule], services: Iterable[ServiceDescriptor]) -> None:
    """Raises ValueError unless ``table`` names every RPC of ``services`` and no other."""
    served = {
        f"/{service.full_name}/{method.name}" for service in services for method in service.methods
    }
    problems = [f"{name} has no rule" for name in sorted(served - table.keys())]
    problems += [f"{name} is not served" for name in sorted(table.keys() - served)]
    if problems:
        raise ValueError("authorization table: " + "; ".join(problems))
