"""How an installation begins: one workspace, one admin."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime

from lepton_auth.accounts import FIRST_WORKSPACE
from lepton_auth.audit import Attempt, Auditor
from lepton_auth.ports import Passwords, Records, Store
from lepton_auth.records import User, Workspace
from lepton_mesh.caller import Role

FIRST_ADMIN = "admin"


async def create_first_admin(
    store: Store, passwords: Passwords, auditor: Auditor, clock: Callable[[], datetime]
) -> str | None:
    """Makes workspace ``default`` with user ``admin``; returns its password.

    Changes nothing and returns None if that workspace exists, whoever its admins are by now.
    """
    if await store.read(lambda records: records.workspaces.exists(FIRST_WORKSPACE)):
        return None
    password = secrets.token_urlsafe(18)
    now = clock()
    admin = User(FIRST_ADMIN, "First admin", await passwords.hash(password), False, now)

    def create(records: Records) -> bool:
        # False when another process was faster.
        if not records.workspaces.add(Workspace(FIRST_WORKSPACE, "Default", now)):
            return False
        records.users.add(admin)
        records.users.set_role(FIRST_ADMIN, FIRST_WORKSPACE, Role.ADMIN)
        auditor.record(records, Attempt("", (FIRST_WORKSPACE,), "user.create", admin.name))
        return True

    return password if await store.write(create) else None
