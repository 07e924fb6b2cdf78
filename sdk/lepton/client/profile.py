"""Where to call and as whom: a small YAML file that `lepton up` and `lepton login` write.

    current: local
    profiles:
      local: {address: "localhost:8443", ca_file: /…/ca.pem, workspace: default, api_key: lpk_…}

It lies at ``$LEPTON_CONFIG``, else ``$XDG_CONFIG_HOME/lepton/config.yaml``, else
``~/.config/lepton/config.yaml``, readable by its owner only.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from lepton.client.errors import DISK_FULL, ProfileError


@dataclass(frozen=True, slots=True)
class Profile:
    """One place to call.

    Attributes:
        address: The gateway, ``host:port``.
        ca_file: PEM file with the root to trust; the system's roots when empty.
        workspace: Workspace id; the credential's own when empty.
        api_key: Secret of an API key.
        refresh_token: What `lepton login` got; traded for a new one at each use.
    """

    address: str
    ca_file: str = ""
    workspace: str = ""
    api_key: str = ""
    refresh_token: str = ""


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the profiles lie."""
    if path := environ.get("LEPTON_CONFIG"):
        return Path(path)
    base = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "lepton" / "config.yaml"


def gateway_address(text: str) -> str:
    """``host:port`` from what people type: ``https://host:port/`` means the same.

    Raises:
        ProfileError: It has no port, or names another protocol.
    """
    scheme, separator, rest = text.rpartition("://")
    address = rest.rstrip("/")
    host, _, port = address.rpartition(":")
    if separator and scheme != "https":
        raise ProfileError(f"{text}: a gateway speaks TLS only; give it as host:port")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ProfileError(f"{text!r} is no address of a gateway; give host:port, as in host:8443")
    return address


def load_profile(name: str = "", path: Path | None = None) -> Profile:
    """Reads a profile; the current one without a name.

    Raises:
        ProfileError: There is none, or the file is not what it should be.
    """
    path = path or config_path()
    config = _read(path)
    name = name or current_profile(path)
    profiles = config["profiles"]
    if name not in profiles:
        known = ", ".join(sorted(profiles)) or "none"
        missing = f"no profile {name}" if name else "no profile is current"
        raise ProfileError(
            f"{missing} in {path} (there: {known}); start a local stack "
            "with `lepton up`, or log in with `lepton login ADDRESS`",
            reason="PROFILE_NOT_FOUND",
        )
    found = profiles[name]
    return Profile(**_checked(found, f"profile {name} in {path}"))


def current_profile(path: Path | None = None) -> str:
    """Name of the current profile; empty when none is.

    Raises:
        ProfileError: The file is not what it should be.
    """
    return str(_read(path or config_path()).get("current") or "")


def save_profile(name: str, profile: Profile, path: Path | None = None) -> Path:
    """Writes a profile and makes it the current one, all or nothing, mode 0600.

    Raises:
        ProfileError: The file that is there is not what it should be, or cannot be written.
    """
    path = path or config_path()
    with _locked(path):
        config = _read(path)
        config["current"] = name
        config["profiles"][name] = _plain(profile)
        _write(path, config)
    return path


def delete_profile(name: str, path: Path | None = None) -> bool:
    """Removes a profile; returns whether it was there.

    Raises:
        ProfileError: The file is not what it should be, or cannot be written.
    """
    path = path or config_path()
    if name not in _read(path)["profiles"]:
        return False
    with _locked(path):
        config = _read(path)
        config["profiles"].pop(name, None)
        if config.get("current") == name:
            config["current"] = next(iter(sorted(config["profiles"])), "")
        _write(path, config)
    return True


def exchange_refresh_token(
    name: str, exchange: Callable[[str], str], path: Path | None = None
) -> None:
    """Replaces a saved refresh token by what ``exchange`` gives for it.

    A refresh token works once. So one process at a time does this, each with the token that
    the last one left in the file, and the new token is on disk before it is used.

    Raises:
        ProfileError: The profile is gone, or cannot be written.
    """
    path = path or config_path()
    with _locked(path):
        profile = load_profile(name, path)
        replacement = exchange(profile.refresh_token)
        config = _read(path)
        config["profiles"][name]["refresh_token"] = replacement
        _write(path, config)


def _plain(profile: Profile) -> dict[str, str]:
    return {key: value for key, value in asdict(profile).items() if value}


def _checked(found: object, where: str) -> dict[str, str]:
    if not isinstance(found, dict):
        raise ProfileError(f"{where} is not a mapping; mend the file or log in again")
    known = {field.name for field in fields(Profile)}
    if unknown := sorted(str(key) for key in found if key not in known):
        raise ProfileError(
            f"{where}: unknown {', '.join(unknown)} (known: {', '.join(sorted(known))}); "
            "mend the file or log in again"
        )
    if not found.get("address"):
        raise ProfileError(f"{where}: no address; mend the file or log in again")
    try:
        address = gateway_address(str(found["address"]))
    except ProfileError as error:
        raise ProfileError(f"{where}: {error}") from None
    # A key with nothing after it is None in YAML.
    given = {key: str(value) for key, value in found.items() if value is not None}
    return given | {"address": address}


def _read(path: Path) -> dict[str, Any]:
    """The file's mapping, with a mapping under ``profiles`` whatever the file has there."""
    try:
        config = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        return {"profiles": {}}
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        at = getattr(error, "problem_mark", None)
        where = f" (line {at.line + 1})" if at is not None else ""
        raise ProfileError(f"{path} is not YAML{where}; mend or remove it") from None
    config = {} if config is None else config
    if not isinstance(config, dict) or not isinstance(config.get("profiles") or {}, dict):
        raise ProfileError(f"{path} is not a mapping with profiles; mend or remove it")
    config["profiles"] = config.get("profiles") or {}
    return config


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lets one process at a time change the file. The lock lies beside it: it is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _write(path: Path, config: Mapping[str, object]) -> None:
    try:
        # mkstemp makes the file 0600 from its first byte.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".config-")
        try:
            with os.fdopen(handle, "w") as file:
                yaml.safe_dump(dict(config), file, sort_keys=False)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> ProfileError:
    return ProfileError(
        f"cannot write {path}: {error.strerror}",
        reason="DISK_FULL" if error.errno in DISK_FULL else "FILE_UNWRITABLE",
    )
