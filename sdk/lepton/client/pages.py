"""Walks the pages of a List method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

from lepton.client.errors import translated

Item = TypeVar("Item")


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


Page = TypeVar("Page", bound=_Page)


def items(fetch: Callable[[str], Page], pick: Callable[[Page], Sequence[Item]]) -> Iterator[Item]:
    """Yields every item; ``fetch`` takes a page token, ``pick`` takes the items of a page."""
    token = ""
    while True:
        with translated():
            page = fetch(token)
        yield from pick(page)
        token = page.next_page_token
        if not token:
            return
