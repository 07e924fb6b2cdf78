"""What is asked of a caller beyond what its token says, before rights or credentials change.

A token holds for some minutes after its user was disabled or lost a role, and other services live
with that. Here it would let the user undo in those minutes what was decided. And a credential that
can be stolen from a file, an API key, must not make what goes on when it is deleted.
"""

from __future__ import annotations

from lepton_auth.errors import CredentialInvalid, PasswordLoginRequired
from lepton_auth.ports import Records
from lepton_mesh.authorization import RoleTooLow
from lepton_mesh.caller import Caller, Role


def require_standing(records: Records, caller: Caller, least: Role) -> None:
    """Lets through services, and users who still have ``least`` where they call.

    Raises:
        CredentialInvalid: The user is disabled or gone.
        RoleTooLow: The user's role is another by now.
    """
    if caller.kind != "user":
        return
    role = records.users.standing(caller.subject.removeprefix("users/"), caller.workspace)
    if role is None:
        raise CredentialInvalid
    if role < least:
        raise RoleTooLow(
            f"your role in workspace '{caller.workspace}' is '{role.name.lower()}' by now; "
            f"'{least.name.lower()}' is needed",
            workspace=caller.workspace,
        )


def require_password(by_password: bool, what: str) -> None:
    """Raises PasswordLoginRequired unless the caller's token came from a password.

    Args:
        what: What it wants to do, as in "an API key cannot ...".
    """
    if not by_password:
        raise PasswordLoginRequired(f"an API key cannot {what}; run `lepton login`")
