"""base64url as JOSE writes it, there and back."""

from __future__ import annotations

import pytest

from lepton_mesh import base64url


@pytest.mark.parametrize("length", range(8))
def test_bytes_come_back(length: int) -> None:
    """Without padding, and with the characters that need no escape in URLs."""
    data = b"\xfb\xff\xfe\x00abc\xff"[:length]
    text = base64url.encode(data)
    assert not set(text) & set("+/=")
    assert base64url.decode(text) == data


@pytest.mark.parametrize("text", ["a", "ab cd", "ab\n", "é", "ab.d"])
def test_what_is_no_base64url_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        base64url.decode(text)
