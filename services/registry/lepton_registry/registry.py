"""Models, versions and aliases: what may be registered, and what may change afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from lepton_mesh.caller import Caller
from lepton_mesh.resources import check_etag, check_request_id
from lepton_registry.errors import (
    AliasNotFound,
    InvalidAlias,
    InvalidVersion,
    ModelExists,
    ModelNotFound,
    RegistrationExpired,
    RequestIdTaken,
    TooManyAliases,
    VersionAliased,
    VersionArchived,
    VersionNotFound,
)
from lepton_registry.files import Files
from lepton_registry.pages import models_page, versions_page
from lepton_registry.ports import Records, Store
from lepton_registry.records import Model, Phase, State, Version, check_texts, check_version

T = TypeVar("T")

LATEST = "latest"
"""Stands for the newest version wherever a number may stand; so it is no alias."""
MAX_ALIASES = 64
"""Of one model: every answer about it has them all."""


@dataclass(frozen=True, slots=True)
class Change:
    """The new values of the fields that change; None leaves one as it is."""

    description: str | None = None
    labels: Mapping[str, str] | None = None
    state: State | None = None


class Registry:
    """The record of every model; each method works in the caller's workspace."""

    def __init__(self, store: Store, files: Files, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._files = files
        self._clock = clock

    async def create_model(
        self, caller: Caller, model_id: str, description: str, labels: Mapping[str, str]
    ) -> Model:
        """A model without versions."""
        caller.require_write(f"models/{model_id}")
        check_texts(description, labels)
        model = Model(model_id, description, labels, caller.subject, self._clock())

        def create(records: Records) -> Model:
            if not records.models.add(caller.workspace, model):
                raise ModelExists(
                    f"'{model.name}' exists; register a version of it, or choose another id",
                    model=model_id,
                )
            return model

        return await self._store.write(create)

    async def get_model(self, caller: Caller, model_id: str) -> Model:
        """The model; for a job, only one that it may write."""
        caller.require_write(f"models/{model_id}")
        return await self._store.read(lambda records: _model(records, caller, model_id))

    async def list_models(
        self, caller: Caller, after: str, size: int
    ) -> tuple[Sequence[Model], bool]:
        """Up to ``size`` models with ids above ``after``, and whether more follow."""
        return await self._store.read(
            lambda records: models_page(records, caller.workspace, after, size)
        )

    async def update_model(self, caller: Caller, model_id: str, etag: str, change: Change) -> Model:
        """Changes description or labels."""
        check_texts(change.description or "", change.labels or {})

        def update(records: Records) -> Model:
            model = _model(records, caller, model_id)
            check_etag(etag, model.etag, model.name)
            return _replace(
                records,
                caller,
                replace(
                    model,
                    description=_given(change.description, model.description),
                    labels=_given(change.labels, model.labels),
                ),
            )

        return await self._store.write(update)

    async def delete_model(self, caller: Caller, model_id: str) -> None:
        """Removes the model with its versions and aliases.

        Files that no other version has go too, soon after: whatever happens, they are not
        forgotten.
        """

        def delete(records: Records) -> None:
            _model(records, caller, model_id)
            records.holds.delete(caller.workspace, model_id)
            records.models.delete(caller.workspace, model_id)

        await self._store.write(delete)
        self._files.wake()

    async def create_version(
        self, caller: Caller, model_id: str, version: Version, request_id: str
    ) -> Version:
        """Registers ``version`` under the next number, once its file was found in storage.

        The same ``request_id`` finds the version that it registered before.
        """
        caller.require_write(f"models/{model_id}")
        version = _made_by(caller, version)
        check_version(version)
        check_request_id(request_id)
        found = await self._store.read(
            lambda records: (
                _model(records, caller, model_id),
                _repeated(records, caller, model_id, version, request_id),
            )[1]
        )
        if found is not None:
            return found
        hold_id, size_bytes = await self._files.hold(caller, model_id, version)

        def register(records: Records) -> Version:
            model = _model(records, caller, model_id)
            if twin := _repeated(records, caller, model_id, version, request_id):
                records.holds.conclude(hold_id, Phase.RELEASED)
                return twin
            if not records.holds.conclude(hold_id, Phase.KEPT):
                raise RegistrationExpired("the registration took too long; send it again")
            registered = replace(
                version,
                state=State.READY,
                model=model_id,
                number=model.latest + 1,
                size_bytes=size_bytes,
                creator=caller.subject,
                created=self._clock(),
                request_id=request_id,
            )
            _replace(records, caller, replace(model, latest=registered.number))
            records.versions.add(caller.workspace, registered)
            return registered

        return await self._store.write(register)

    async def get_version(self, caller: Caller, model_id: str, number: str) -> Version:
        """A version by its number, or the newest by ``latest``."""
        return await self._store.read(lambda records: _version(records, caller, model_id, number))

    async def resolve_alias(self, caller: Caller, model_id: str, alias: str) -> Version:
        """The version that ``alias`` leads to now."""

        def resolve(records: Records) -> Version:
            model = _model(records, caller, model_id)
            return _version(records, caller, model_id, str(_alias(model, alias)))

        return await self._store.read(resolve)

    async def list_versions(
        self, caller: Caller, model_id: str, before: int | None, size: int
    ) -> tuple[Sequence[Version], bool]:
        """Up to ``size`` versions with numbers below ``before``, and whether more follow."""

        def versions(records: Records) -> tuple[Sequence[Version], bool]:
            _model(records, caller, model_id)
            return versions_page(records, caller.workspace, model_id, before, size)

        return await self._store.read(versions)

    async def update_version(
        self, caller: Caller, model_id: str, number: str, etag: str, change: Change
    ) -> Version:
        """Changes description, labels or state."""
        check_texts(change.description or "", change.labels or {})

        def update(records: Records) -> Version:
            model = _model(records, caller, model_id)  # held, so that no alias is set meanwhile
            version = _version(records, caller, model_id, number)
            check_etag(etag, version.etag, version.name)
            if change.state is State.ARCHIVED:
                _require_no_alias(model, version)
            changed = replace(
                version,
                description=_given(change.description, version.description),
                labels=_given(change.labels, version.labels),
                state=_given(change.state, version.state),
                revision=version.revision + 1,
            )
            records.versions.update(caller.workspace, changed)
            return changed

        return await self._store.write(update)

    async def set_alias(self, caller: Caller, model_id: str, alias: str, number: str) -> Model:
        """Points ``alias`` at a version that may be deployed, or moves it there."""
        if alias == LATEST:
            raise InvalidAlias(f"'{LATEST}' always means the newest version; choose another alias")

        def point(records: Records) -> Model:
            model = _model(records, caller, model_id)
            version = _version(records, caller, model_id, number)
            if version.state is State.ARCHIVED:
                raise VersionArchived(
                    f"'{version.name}' is archived; make it READY before an alias leads to it",
                    version=version.name,
                )
            if alias not in model.aliases and len(model.aliases) >= MAX_ALIASES:
                raise TooManyAliases(
                    f"'{model.name}' has {len(model.aliases)} aliases already; delete one first",
                    model=model_id,
                )
            aliases = {**model.aliases, alias: version.number}
            return _replace(records, caller, replace(model, aliases=aliases))

        return await self._store.write(point)

    async def delete_alias(self, caller: Caller, model_id: str, alias: str) -> Model:
        """Removes an alias; the version stays."""

        def remove(records: Records) -> Model:
            model = _model(records, caller, model_id)
            _alias(model, alias)
            aliases = {key: number for key, number in model.aliases.items() if key != alias}
            return _replace(records, caller, replace(model, aliases=aliases))

        return await self._store.write(remove)


def _model(records: Records, caller: Caller, model_id: str) -> Model:
    model = records.models.get(caller.workspace, model_id)
    if model is None:
        raise ModelNotFound(
            f"'models/{model_id}' is not in workspace '{caller.workspace}'; `lepton model list` "
            "shows those that are",
            model=model_id,
        )
    return model


def _version(records: Records, caller: Caller, model_id: str, number: str) -> Version:
    model = _model(records, caller, model_id)
    wanted = model.latest if number == LATEST else int(number) if number.isdecimal() else 0
    # Numbers beyond the newest never reach the database, whose integers are bounded.
    version = (
        records.versions.get(caller.workspace, model_id, wanted)
        if 1 <= wanted <= model.latest
        else None
    )
    if version is None:
        newest = f"the newest is {model.latest}" if model.latest else "it has none yet"
        raise VersionNotFound(
            f"'{model.name}' has no version '{number[:20]}'; {newest}", model=model_id
        )
    return version


def _alias(model: Model, alias: str) -> int:
    if alias not in model.aliases:
        has = ", ".join(sorted(model.aliases)) or "none"
        raise AliasNotFound(
            f"'{model.name}' has no alias '{alias}'; it has: {has}", model=model.id, alias=alias
        )
    return model.aliases[alias]


def _require_no_alias(model: Model, version: Version) -> None:
    leading = sorted(alias for alias, number in model.aliases.items() if number == version.number)
    if leading:
        raise VersionAliased(
            f"alias '{leading[0]}' leads to '{version.name}'; move or delete it first",
            version=version.name,
            alias=leading[0],
        )


def _repeated(
    records: Records, caller: Caller, model_id: str, version: Version, request_id: str
) -> Version | None:
    """The version that this request registered before."""
    if not request_id:
        return None
    found = records.versions.find_request(caller.workspace, model_id, request_id)
    if found is not None and found.sha256 != version.sha256:
        raise RequestIdTaken(
            f"request_id belongs to '{found.name}', whose file is another; use a new request_id",
            version=found.name,
        )
    return found


def _made_by(caller: Caller, version: Version) -> Version:
    """``version`` with its job, if a job registers it: a job speaks for itself only.

    Raises InvalidVersion for another job's name, ResourceNotGranted for a dataset version or
    code that the job may not read, and so cannot have used.
    """
    if caller.kind != "job":
        return version
    if version.lineage.job not in ("", caller.subject):
        raise InvalidVersion(
            f"lineage.job is '{version.lineage.job}', and '{caller.subject}' registers it"
        )
    if version.lineage.dataset_version:
        caller.require_read(version.lineage.dataset_version)
    if version.lineage.code_artifact:
        caller.require_read(version.lineage.code_artifact)
    return replace(version, lineage=replace(version.lineage, job=caller.subject))


def _replace(records: Records, caller: Caller, model: Model) -> Model:
    changed = replace(model, revision=model.revision + 1)
    records.models.replace(caller.workspace, changed)
    return changed


def _given(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value
