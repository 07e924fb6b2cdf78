"""Models on local disk by digest, so that a restart fetches nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Set
from pathlib import Path

from lepton_mesh.errors import DataLoss, InvalidArgument

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE = "model.onnx"


class DigestMismatch(DataLoss):
    """The bytes are not those that were registered."""

    reason = "MODEL_DIGEST_MISMATCH"


class DigestInvalid(InvalidArgument):
    reason = "DIGEST_INVALID"


class ModelCache:
    """``<directory>/<sha256>/model.onnx``, each complete and checked.

    See :class:`lepton_inference.ports.Models`.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fetching: dict[str, asyncio.Lock] = {}

    async def get(self, sha256: str, artifact: str, content: AsyncIterator[bytes]) -> Path:
        """The path of the model with that digest, fetched from ``content`` if it is not there.

        Raises:
            DigestMismatch: ``content`` is something else; nothing is kept of it.
            DigestInvalid: ``sha256`` is not one.
            LeptonError: Whatever ``content`` raises.
        """
        if not _DIGEST.fullmatch(sha256):
            raise DigestInvalid(f"'{artifact}' is registered with the SHA-256 '{sha256}'")
        path = self._directory / sha256 / _FILE
        # Two endpoints that want one model fetch it once.
        async with self._fetching.setdefault(sha256, asyncio.Lock()):
            if await asyncio.to_thread(_is_intact, path, sha256):
                return path
            await self._fetch(path, sha256, artifact, content)
        return path

    async def keep(self, digests: Set[str]) -> None:
        """Removes every other model."""
        await asyncio.to_thread(self._remove_others, digests)

    async def _fetch(
        self, path: Path, sha256: str, artifact: str, content: AsyncIterator[bytes]
    ) -> None:
        await asyncio.to_thread(path.parent.mkdir, 0o700, True, True)
        partial = path.with_suffix(".partial")
        digest = hashlib.sha256()
        try:
            file = await asyncio.to_thread(partial.open, "wb")
            with file:
                async for piece in content:
                    await asyncio.to_thread(file.write, piece)
                    digest.update(piece)
            found = digest.hexdigest()
            if found != sha256:
                raise DigestMismatch(
                    f"the bytes of '{artifact}' have the SHA-256 {found}, and {sha256} was "
                    "registered; register the model again",
                    artifact=artifact,
                    expected=sha256,
                    found=found,
                )
            await asyncio.to_thread(os.replace, partial, path)
        finally:
            await asyncio.to_thread(partial.unlink, True)

    def _remove_others(self, digests: Set[str]) -> None:
        for folder in self._directory.glob("*"):
            locked = self._fetching.get(folder.name)
            if folder.name not in digests and not (locked and locked.locked()):
                shutil.rmtree(folder, ignore_errors=True)


def _is_intact(path: Path, sha256: str) -> bool:
    """Whether the file is there and is what its folder says; one that is not is removed."""
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() == sha256:
                return True
    except FileNotFoundError:
        return False
    path.unlink()
    return False
