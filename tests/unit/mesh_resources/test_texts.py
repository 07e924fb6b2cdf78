"""What every text that a user gives is checked for."""

from __future__ import annotations

import pytest

from lepton_mesh.texts import counted, text_fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", ""),
        ("é" * 5, ""),
        ("é" * 6, "has more than 5 characters; shorten it"),
        ("a\0", "holds a NUL character; take it out"),
    ],
)
def test_text_fault(text: str, fault: str) -> None:
    """The limit counts characters, and no database takes NUL."""
    assert text_fault(text, 5) == fault


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")], ids=["none", "one", "two"]
)
def test_counted(count: int, said: str) -> None:
    """As people write it."""
    assert counted(count, "row") == said


def test_a_plural_of_its_own_is_counted() -> None:
    assert [counted(count, "class", "classes") for count in (1, 2)] == ["1 class", "2 classes"]
