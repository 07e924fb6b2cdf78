"""Unpacks a user's code: a zip archive whose every entry is checked before it is written."""

from __future__ import annotations

import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from lepton_training.job_files import remove
from lepton_training.worker.own.errors import CodeInvalid

FILES_MAX = 10_000
BYTES_MAX = 256 << 20
"""Of all files together, unpacked."""
_PIECE = 1 << 20


def unpack(archive: Path, target: Path) -> None:
    """Writes the archive's files below ``target``, which is made anew.

    Raises:
        CodeInvalid: It is no zip archive, is too large unpacked, or has an entry that is no plain
            file or would lie elsewhere.
    """
    remove(target)
    target.mkdir(mode=0o700)
    try:
        with zipfile.ZipFile(archive) as content:
            entries = content.infolist()
            if len(entries) > FILES_MAX:
                raise CodeInvalid(f"the code has {len(entries)} files; at most {FILES_MAX}")
            left = BYTES_MAX
            for entry in entries:
                left -= _write(content, entry, target / _checked(entry), left)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # NotImplementedError: a compression that is not here; RuntimeError: encrypted.
        raise CodeInvalid(
            f"the code cannot be unpacked ({error}); make it by `lepton job create`"
        ) from None


def _checked(entry: zipfile.ZipInfo) -> PurePosixPath:
    name = entry.filename
    path = PurePosixPath(name)
    if (
        path.is_absolute()
        or not path.parts
        or ".." in path.parts
        or "\\" in name
        or not name.isprintable()
    ):
        raise CodeInvalid(f"the code has an entry {name!r}, which is not below its folder")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        raise CodeInvalid(f"{name} in the code is a link or a device; only plain files are taken")
    return path


def _write(content: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Writes one entry; returns its bytes, as they came and not as they were announced."""
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return 0
    written = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with content.open(entry) as source, path.open("xb") as out:
            while piece := source.read(_PIECE):
                written += len(piece)
                if written > left:
                    raise CodeInvalid(f"the code has more than {BYTES_MAX >> 20} MiB unpacked")
                out.write(piece)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise CodeInvalid(
            f"the code has {entry.filename} twice, or as a file and a folder"
        ) from None
    return written
