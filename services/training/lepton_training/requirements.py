"""The requirements file of a user's own code: exact pins, checked before anything is installed.

What may be written is a part of pip's format (https://pip.pypa.io/en/stable/reference/requirements-file-format/):
one ``name==version`` a line, with extras, a marker and hashes. Options, URLs and paths are not
taken: what a job runs on must be in its spec.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from lepton_training.recipes.hyperparameters import Fault

_PATH = "spec.python.requirements"
_BYTES_MAX = 64 << 10
_LINES_MAX = 500
_HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
_LAYOUT = 1
"""Of an environment on disk; another one makes all environments anew."""
BASE = (
    "lepton-cloud",
    "torch",
    "numpy",
    "onnx",
    "onnxscript",
    "onnx-ir",
    "onnxruntime",
    "pydantic",
    "pydantic-core",
    "protobuf",
    "packaging",
)
"""Packages that the platform's own part of the code's process is made of: one version for all."""


@dataclass(frozen=True, slots=True)
class Pin:
    """One line."""

    line: int
    """From 1; the first of a line that goes on."""
    name: str
    """Canonical."""
    version: str
    hashed: bool


def requirement_faults(text: str) -> list[Fault]:
    """All that is wrong with a requirements file, each with its line."""
    if len(text.encode()) > _BYTES_MAX:
        return [Fault(_PATH, f"has more than {_BYTES_MAX >> 10} KiB")]
    faults: list[Fault] = []
    pins = list(_pins(text, faults))
    if len(pins) > _LINES_MAX:
        faults.append(Fault(_PATH, f"has {len(pins)} packages; at most {_LINES_MAX}"))
    seen: dict[str, int] = {}
    some_hashed = any(pin.hashed for pin in pins)
    for pin in pins:
        if pin.name in seen:
            faults.append(_fault(pin.line, f"{pin.name} is in line {seen[pin.name]} already"))
        seen.setdefault(pin.name, pin.line)
        if some_hashed and not pin.hashed:
            faults.append(_fault(pin.line, f"{pin.name} has no --hash, and others have"))
        here = base_versions().get(pin.name)
        if here is not None and Version(here) != Version(pin.version):
            faults.append(
                _fault(
                    pin.line,
                    f"{pin.name} is {here} here, for the platform uses it too, and {pin.version} "
                    "is pinned; leave the line out or pin what is here",
                )
            )
    return faults


def is_hashed(text: str) -> bool:
    """Whether a file without faults has hashes."""
    return any(pin.hashed for pin in _pins(text, []))


def environment_digest(text: str) -> str:
    """Names the environment that a file makes on this machine: SHA-256, 64 hex digits.

    Of the file, of Python's version and platform, and of the versions of :data:`BASE`.
    """
    content = {
        "layout": _LAYOUT,
        "requirements": "\n".join(line for _, line in _lines(text)),
        "python": [platform.python_implementation(), platform.python_version(), sys.base_prefix],
        "platform": sysconfig.get_platform(),
        "base": base_versions(),
        "prefix": sys.prefix,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def base_versions() -> dict[str, str]:
    """Versions of :data:`BASE`, of those that are installed."""
    found: dict[str, str] = {}
    for name in BASE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _pins(text: str, faults: list[Fault]) -> Iterator[Pin]:
    for number, line in _lines(text):
        if line.startswith("-"):
            faults.append(_fault(number, f"'{line.split()[0]}': options are not taken"))
            continue
        what, *hashes = line.split(" --hash=")
        wrong = [one for one in hashes if not _HASH.fullmatch(f"--hash={one.strip()}")]
        if wrong or " --" in what:
            faults.append(_fault(number, "only --hash=sha256:… (or sha384, sha512) may follow"))
            continue
        try:
            requirement = Requirement(what)
        except InvalidRequirement:
            faults.append(_fault(number, f"'{what}' is not written name==version"))
            continue
        pinned = _pinned_version(requirement)
        if pinned is None:
            faults.append(
                _fault(
                    number, f"{requirement.name} is not pinned; write {requirement.name}==version"
                )
            )
            continue
        yield Pin(number, canonicalize_name(requirement.name), pinned, bool(hashes))


def _pinned_version(requirement: Requirement) -> str | None:
    """The version of ``name==version``; None for anything else."""
    specifiers = list(requirement.specifier)
    if requirement.url or len(specifiers) != 1 or specifiers[0].operator != "==":
        return None
    try:
        Version(specifiers[0].version)  # no ``1.*``
    except InvalidVersion:
        return None
    return specifiers[0].version


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines that say something, joined where one goes on, each with the number of its first."""
    parts: list[str] = []
    first = 0
    for number, line in enumerate([*text.splitlines(), ""], start=1):
        first = first if parts else number
        goes_on = line.endswith("\\")
        parts.append(re.sub(r"(^|\s)#.*$", "", line.removesuffix("\\")).strip())
        if goes_on:
            continue
        joined = " ".join(part for part in parts if part)
        parts = []
        if joined:
            yield first, joined


def _fault(line: int, message: str) -> Fault:
    return Fault(_PATH, f"line {line}: {message}")
