"""What texts that users give may hold, wherever they end up in a database, and words for them."""

from __future__ import annotations


def text_fault(text: str, limit: int) -> str:
    """What is wrong with a text of at most ``limit`` characters, and the remedy; "" if nothing."""
    if len(text) > limit:
        return f"has more than {limit} characters; shorten it"
    if "\0" in text:
        # PostgreSQL's texts cannot hold one.
        return "holds a NUL character; take it out"
    return ""


def counted(count: int, noun: str, plural: str = "") -> str:
    """``1 row``, ``2 rows``; ``plural`` is for nouns whose own is not just an s more."""
    return f"{count} {noun}" if count == 1 else f"{count} {plural or noun + 's'}"
