"""Models on local disk by digest, so that a restart fetches nothing twice."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Set
from pathlib import Path
from weakref import WeakValueDictionary

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
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """Of each model that is fetched or removed now."""
        self._asked: list[set[str]] = []
        """For each removal that goes on, what was asked for since it began."""

    async def get(self, sha256: str, artifact: str, content: AsyncIterator[bytes]) -> Path:
        """The path of the model with that digest, fetched from ``content`` if it is not there.

        Raises:
            DigestMismatch: ``content`` is something else; nothing is kept of it.
            DigestInvalid: ``sha256`` is not one.
            LeptonError: Whatever ``content`` raises.
        """
        if not _DIGEST.fullmatch(sha256):
            raise DigestInvalid(f"'{artifact}' is registered with the SHA-256 '{sha256}'")
        for asked in self._asked:
            asked.add(sha256)
        path = self._directory / sha256 / _FILE
        # Two endpoints that want one model fetch it once.
        async with self._lock(sha256):
            if await asyncio.to_thread(_is_intact, path, sha256):
                return path
            await self._fetch(path, sha256, artifact, content)
        return path

    async def keep(self, wanted: Callable[[], Awaitable[Set[str]]]) -> None:
        """See :class:`lepton_inference.ports.Models`."""
        # Who asks for a model after its removal was decided on finds it, or fetches it again.
        asked: set[str] = set()
        self._asked.append(asked)
        try:
            kept = await wanted()
            for folder in await asyncio.to_thread(lambda: list(self._directory.glob("*"))):
                if folder.name not in kept and not self._lock(folder.name).locked():
                    # To the end, also where the deployment that asks for it is cancelled.
                    await asyncio.shield(self._remove(folder, asked))
        finally:
            self._asked = [each for each in self._asked if each is not asked]

    async def _remove(self, folder: Path, asked: Set[str]) -> None:
        async with self._lock(folder.name):
            if folder.name not in asked:
                await asyncio.to_thread(shutil.rmtree, folder, True)

    def _lock(self, sha256: str) -> asyncio.Lock:
        """Held by whoever fetches or removes the model; forgotten once nobody does."""
        return self._locks.setdefault(sha256, asyncio.Lock())

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
