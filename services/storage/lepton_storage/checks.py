"""Checks of the files of new versions: few at a time, each once, and none that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass

from lepton_storage.formats import CHECKS, Open
from lepton_storage.records import DatasetFormat
from lepton_storage.threads import IoThreads

_AT_A_TIME = 2


class _AbandonedError(Exception):
    """Nobody waits for the check any more."""


@dataclass
class _Running:
    result: asyncio.Future[dict[str, str]]
    abandoned: threading.Event
    waiting: int = 0


class Checks:
    """Threads of their own: a check reads every byte of a version, which may take minutes."""

    def __init__(self) -> None:
        self._threads = IoThreads(_AT_A_TIME, "storage-check")
        self._running: dict[Hashable, _Running] = {}

    async def statistics(
        self, key: Hashable, format: DatasetFormat, files: Mapping[str, Open]
    ) -> dict[str, str]:
        """Checks that ``files`` are what ``format`` says, and tells what was found.

        Callers with the same ``key``, who ask for the same files, share one check. One that all
        of them have left ends at its next piece.

        Raises DatasetInvalid, and whatever reading a file raises.
        """
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = self._begin(format, files)
        running.waiting += 1
        try:
            return await asyncio.shield(running.result)
        finally:
            running.waiting -= 1
            if not running.waiting:
                del self._running[key]
                running.abandoned.set()
                running.result.cancel()  # one that has no thread yet never gets one

    def close(self) -> None:
        """Ends what runs and waits for that."""
        for running in list(self._running.values()):
            running.abandoned.set()
        self._threads.close()

    def _begin(self, format: DatasetFormat, files: Mapping[str, Open]) -> _Running:
        abandoned = threading.Event()
        return _Running(self._threads.submit(_check, format, files, abandoned), abandoned)


def _check(
    format: DatasetFormat, files: Mapping[str, Open], abandoned: threading.Event
) -> dict[str, str]:
    if abandoned.is_set():
        raise _AbandonedError
    return CHECKS[format]({path: _while_wanted(begin, abandoned) for path, begin in files.items()})


def _while_wanted(begin: Open, abandoned: threading.Event) -> Open:
    def read() -> Iterator[bytes]:
        for piece in begin():
            if abandoned.is_set():
                raise _AbandonedError
            yield piece

    return read
