"""Files inside of archives; nothing is written to the disk."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from lepton_training.worker.data.idx import DatasetInvalid

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


def unpacked(
    file: Path, name: str, suffixes: tuple[str, ...], *, largest: int
) -> Iterator[tuple[str, bytes]]:
    """Path and content of each file in the archive ``file`` that ends in one of ``suffixes``.

    Args:
        name: What errors call the archive.
        largest: Bytes that one file may have; an archive may be a thousand times smaller than
            what is in it.

    Raises:
        DatasetInvalid: It is no archive, or damaged, or has a file that is too large.
    """
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(file) as archive:
                for entry in archive.infolist():
                    if not entry.is_dir() and entry.filename.lower().endswith(suffixes):
                        with archive.open(entry) as inside:
                            yield entry.filename, _bounded(inside, entry.filename, largest)
            return
        with tarfile.open(file) as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(suffixes):
                    opened = tar.extractfile(member)
                    if opened is not None:
                        yield member.name, _bounded(opened, member.name, largest)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
    ) as error:
        # RuntimeError: an encrypted zip archive.
        raise DatasetInvalid(
            f"{name} is not an intact archive ({error}); push the original file again", file=name
        ) from None


def _bounded(file: IO[bytes], name: str, largest: int) -> bytes:
    content = file.read(largest + 1)
    if len(content) > largest:
        raise DatasetInvalid(f"{name} has more than {largest >> 20} MiB; split it", file=name)
    return content
