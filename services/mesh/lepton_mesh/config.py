"""Settings that every process of the mesh reads, once, at start.

A service subclasses :class:`MeshSettings`, or :class:`DatabaseSettings` if it has
a database, adds its own fields and calls ``load`` from its entry point::

    class StorageSettings(DatabaseSettings):
        segment_bytes: int = 1 << 20
        '''Plain bytes in one encrypted segment.'''

    settings = StorageSettings.load("storage")

Each field is the environment variable ``LEPTON_<FIELD>``. A ``LEPTON_``
variable that the service does not know stops the start: a setting with no
effect is an error, not a silence.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from lepton_mesh.errors import InvalidArgument
from lepton_mesh.spiffe import is_trust_domain

PREFIX = "LEPTON_"
# The instance name becomes part of an etcd key.
_INSTANCE = re.compile(r"[a-z0-9][a-z0-9.-]{0,127}")


class InvalidConfiguration(InvalidArgument):
    """A setting is missing, malformed or unknown; the message names the variable."""

    reason = "INVALID_CONFIGURATION"


class MeshSettings(BaseSettings):
    """What every service needs to join the mesh and serve."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", validate_default=False
    )

    state_dir: Path
    """This process's own directory (created with mode 0700): identity, database, caches."""
    trust_domain: str = "lepton.local"
    """The authority of every SPIFFE id this process accepts."""

    etcd_endpoints: str = "127.0.0.1:2379"
    """``host:port`` of each etcd member, comma-separated. TLS always."""
    listen_host: str = "127.0.0.1"
    """The address that the service's ports bind to."""
    listen_port: int = Field(default=0, ge=0, le=65535)
    """The gRPC port; 0 lets the system choose."""
    instance: str = ""
    """This process's name in discovery, unique in its service; default ``<service>-<random>``."""
    zone: str = "local"
    """Where this instance runs: a label in its record, for people; calls go by latency and load."""

    join_address: str = ""
    """``host:port`` of the auth service's join listener; needed for a first certificate."""
    join_token_file: Path | None = None
    """A file holding the one-time join token; deleted once the token is spent."""
    identity_dir: Path | None = None
    """A directory with cert.pem, key.pem, ca.pem kept by an external authority; no joining then."""

    drain_grace_seconds: float = Field(default=10.0, ge=0)
    """How long running calls may go on after the process was told to stop."""
    max_connection_age_seconds: float = Field(default=900.0, gt=0)
    """A client connection older than this is closed with grace, so that it takes new keys."""
    max_message_bytes: int = Field(default=64 << 20, gt=0)
    """The largest gRPC message received or sent, in bytes."""

    metrics_port: int = Field(default=0, ge=-1, le=65535)
    """Prometheus over HTTP on ``listen_host``; 0 lets the system choose, -1 turns it off."""
    otlp_endpoint: str = ""
    """Where traces are exported to (OTLP/gRPC URL); empty exports nothing."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    trace_sample_ratio: float = Field(default=0.01, ge=0, le=1)
    """The share of new traces that is recorded; a caller's decision is kept."""

    @field_validator("instance")
    @classmethod
    def _check_instance(cls, value: str) -> str:
        if value and not _INSTANCE.fullmatch(value):
            raise ValueError("use lowercase letters, digits, '.' and '-' only")
        return value

    @field_validator("trust_domain")
    @classmethod
    def _check_trust_domain(cls, value: str) -> str:
        if not is_trust_domain(value):
            raise ValueError("use a lowercase DNS name such as lepton.local")
        return value

    @field_validator("identity_dir")
    @classmethod
    def _check_identity_dir(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        joining = [name for name in ("join_address", "join_token_file") if info.data.get(name)]
        if value is not None and joining:
            names = " and ".join(PREFIX + name.upper() for name in joining)
            raise ValueError(f"{names} would have no effect beside it; unset either")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Takes constructor arguments only; :meth:`load` is what reads the environment."""
        return (init_settings,)

    @classmethod
    def load(cls, service: str, environ: Mapping[str, str] | None = None) -> Self:
        """Reads the environment, fills the defaults that need ``service``, makes ``state_dir``.

        Raises:
            InvalidConfiguration: A variable is missing, malformed or unknown.
        """
        values = _from_environment(cls, os.environ if environ is None else environ)
        values.setdefault("instance", f"{service}-{secrets.token_hex(4)}")
        try:
            settings = cls(**values)
        except ValidationError as error:
            raise InvalidConfiguration(_explain(error)) from None
        state_dir = settings.state_dir.absolute()
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidConfiguration(
                f"{PREFIX}STATE_DIR: cannot create {state_dir}: {error.strerror}"
            ) from error
        return settings.model_copy(update={"state_dir": state_dir})

    @property
    def etcd_endpoint_list(self) -> tuple[str, ...]:
        """``etcd_endpoints`` taken apart."""
        return tuple(part.strip() for part in self.etcd_endpoints.split(",") if part.strip())


class DatabaseSettings(MeshSettings):
    """What a service with a database needs besides."""

    # May carry a password, so it stays out of repr.
    database_url: str = Field(default="", repr=False)
    """SQLAlchemy URL; default ``sqlite:///<state_dir>/<service>.db``."""

    @classmethod
    def load(cls, service: str, environ: Mapping[str, str] | None = None) -> Self:
        settings = super().load(service, environ)
        url = settings.database_url or f"sqlite:///{settings.state_dir / service}.db"
        return settings.model_copy(update={"database_url": url})


def _from_environment(cls: type[MeshSettings], environ: Mapping[str, str]) -> dict[str, Any]:
    """The fields that ``environ`` sets, as pydantic-settings decodes them."""
    known = {PREFIX + name.upper() for name in cls.model_fields}
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    if unknown := sorted(given.keys() - known):
        raise InvalidConfiguration(
            f"unknown setting{'s' * (len(unknown) > 1)}: {', '.join(unknown)}; "
            f"unset, or correct the name (known: {', '.join(sorted(known))})"
        )
    source = EnvSettingsSource(cls)
    # An empty variable means "not set", as in compose files with `FOO=${FOO:-}`.
    source.env_vars = {name.lower(): value for name, value in given.items() if value}
    try:
        return source()
    except SettingsError as error:
        raise InvalidConfiguration(f"{error}: expected JSON") from None


def _explain(error: ValidationError) -> str:
    """One line a problem, naming the variable; the value is left out, it may be a secret."""
    problems = []
    for detail in error.errors(include_input=False, include_url=False):
        name = PREFIX + ".".join(str(part) for part in detail["loc"]).upper()
        missing = detail["type"] == "missing"
        problems.append(f"{name}: {'must be set' if missing else detail['msg']}")
    return "; ".join(problems)
