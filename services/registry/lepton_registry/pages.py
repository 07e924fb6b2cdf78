"""Pages of lists: they end by count and by size, so that no list is more than a call can answer."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import TypeVar

from lepton_registry.ports import Records
from lepton_registry.records import Model, Version

T = TypeVar("T", Model, Version)

MAX_PAGE_BYTES = 1 << 20
"""Of a page as JSON: as a message it stays below the 4 MiB that gRPC's clients take by default."""

_AT_ONCE = 32
"""Records read by one query: a version may have 1 MiB, so a query never takes a whole page."""


def models_page(
    records: Records, workspace: str, after: str, size: int
) -> tuple[list[Model], bool]:
    """Up to ``size`` models with ids above ``after``, in order of id, and whether more follow."""
    return _fill(_models(records, workspace, after), size)


def versions_page(
    records: Records, workspace: str, model: str, before: int | None, size: int
) -> tuple[list[Version], bool]:
    """Up to ``size`` versions with numbers below ``before``, newest first, and whether more follow.

    They come without their reports.
    """
    return _fill(_versions(records, workspace, model, before), size)


def _models(records: Records, workspace: str, after: str) -> Iterator[Model]:
    while some := records.models.after(workspace, after, _AT_ONCE):
        yield from some
        after = some[-1].id


def _versions(
    records: Records, workspace: str, model: str, before: int | None
) -> Iterator[Version]:
    while some := records.versions.before(workspace, model, before, _AT_ONCE):
        yield from some
        before = some[-1].number


def _fill(items: Iterable[T], size: int) -> tuple[list[T], bool]:
    """At least one item, however large it is, so that every list comes to its end."""
    page: list[T] = []
    taken = 0
    for item in items:
        taken += len(json.dumps(asdict(item), default=str))
        if len(page) == size or (page and taken > MAX_PAGE_BYTES):
            return page, True
        page.append(item)
    return page, False
