"""A user's own code on its way to a job: a local folder, made an archive and uploaded.

The archive depends on the files' names and bytes alone, so code that did not change has the
digest it had, and is not sent again.
"""

from __future__ import annotations

import os
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.client.data import DataClient
from lepton.client.errors import DISK_FULL, SpecError, TransferError, unwritable

MEDIA_TYPE = "application/zip"
ARCHIVE_MAX = 64 << 20
"""Bytes of the archive; the training service takes no larger one."""
FILES_MAX, BYTES_MAX = 10_000, 256 << 20
_TIME = (1980, 1, 1, 0, 0, 0)
"""Of every entry: a zip archive's first moment."""
_LEFT_OUT = ("__pycache__", "node_modules")
_REQUIREMENTS_MAX = 64 << 10


@dataclass(frozen=True)
class LocalCode:
    """A job's spec as it is written, with what it names of this machine taken out."""

    mapping: Mapping[str, Any]
    """The spec without ``code.directory``, and with ``python.requirements_file`` read."""
    directory: Path | None
    """The folder to upload; None where the spec has none."""

    @classmethod
    def taken_from(cls, mapping: Mapping[str, Any], base: Path) -> LocalCode:
        """Args:
            base: Folder that relative paths are found from.

        Raises:
            SpecError: A path is no text, or is given beside what it stands for.
            TransferError: The requirements file cannot be read.
        """
        found = dict(mapping)
        directory = None
        code, python = found.get("code"), found.get("python")
        if isinstance(code, Mapping) and "directory" in code:
            directory = base / _path(code, "code", "directory", beside="artifact")
            found["code"] = {name: one for name, one in code.items() if name != "directory"}
        if isinstance(python, Mapping) and "requirements_file" in python:
            path = base / _path(python, "python", "requirements_file", beside="requirements")
            found["python"] = {
                name: one for name, one in python.items() if name != "requirements_file"
            } | {"requirements": _text(path)}
        return cls(found, directory)


def push_code(data: DataClient, directory: Path) -> pb.Artifact:
    """Uploads a folder of Python code; its ``name`` is a job spec's ``code.artifact``.

    A folder with an ``__init__.py`` is a package and keeps its name; any other is where the
    code's modules and packages lie. Hidden files, ``__pycache__`` and ``*.pyc`` are left out.

    Raises:
        TransferError: A file cannot be read or is a link, or the code is too large.
        ApiError: The server refused, or could not be reached for too long.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-code-") as folder:
        archive = Path(folder) / "code.zip"
        pack_code(directory, archive)
        return data.push_artifact(
            archive, media_type=MEDIA_TYPE, filename=f"{directory.resolve().name[:200]}.zip"
        )


def pack_code(directory: Path, archive: Path) -> None:
    """Writes the archive of a folder; raises TransferError as :func:`push_code`."""
    if not directory.is_dir():
        raise TransferError(
            f"{directory} is no folder; code.directory names one with Python code",
            reason="CODE_INVALID",
        )
    prefix = f"{directory.resolve().name}/" if (directory / "__init__.py").exists() else ""
    count = total = 0
    try:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as content:
            for name, path in _files(directory):
                count += 1
                total += path.stat().st_size
                if count > FILES_MAX or total > BYTES_MAX:
                    raise TransferError(
                        f"{directory} has more than {FILES_MAX} files or {BYTES_MAX >> 20} MiB; "
                        "push data by `lepton data push`, and keep code alone here",
                        reason="CODE_INVALID",
                    )
                entry = zipfile.ZipInfo(prefix + name, _TIME)
                entry.external_attr = (stat.S_IFREG | 0o644) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                content.writestr(entry, path.read_bytes())
    except OSError as error:
        if error.errno in DISK_FULL:
            raise unwritable(archive, error) from error
        why = error.strerror or error
        raise TransferError(f"cannot read the code in {directory}: {why}") from error
    if not count:
        raise TransferError(
            f"{directory} has no files; code.directory names one with Python code",
            reason="CODE_INVALID",
        )
    if archive.stat().st_size > ARCHIVE_MAX:
        raise TransferError(
            f"the code in {directory} makes an archive of more than {ARCHIVE_MAX >> 20} MiB; push "
            "data by `lepton data push`",
            reason="CODE_INVALID",
        )


def _files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Name with ``/`` and path of every file that is sent, in order."""
    found = []
    for where, folders, names in os.walk(directory):
        folders[:] = sorted(one for one in folders if not _left_out(one))
        for name in names + folders:
            path = Path(where) / name
            if _left_out(name):
                continue
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise TransferError(
                    f"{path} is a link or no plain file; copy what it stands for",
                    reason="CODE_INVALID",
                )
            if path.is_file():
                found.append((path.relative_to(directory).as_posix(), path))
    return iter(sorted(found))


def _left_out(name: str) -> bool:
    return name.startswith(".") or name in _LEFT_OUT or name.endswith(".pyc")


def _path(values: Mapping[str, Any], part: str, name: str, *, beside: str) -> str:
    value = values[name]
    if not isinstance(value, str) or not value:
        raise SpecError(f"the job spec is not valid: {part}.{name}: write a path")
    if values.get(beside):
        raise SpecError(
            f"the job spec is not valid: {part}.{name}: cannot be given with {beside}; leave one "
            "of them out"
        )
    return value


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TransferError(f"cannot read {path}: {error.strerror}") from None
    if len(content) > _REQUIREMENTS_MAX:
        raise TransferError(
            f"{path} has more than {_REQUIREMENTS_MAX >> 10} KiB", reason="CODE_INVALID"
        )
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise TransferError(f"{path} is not text in UTF-8", reason="CODE_INVALID") from None
