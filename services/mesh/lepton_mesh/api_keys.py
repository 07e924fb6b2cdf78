"""What an API key looks like: known to auth, which makes them, and to the gateway."""

from __future__ import annotations

import re

FORM = re.compile(r"lpk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})")
"""``lpk_<id>_<secret>``: 64 bits in hex, and 256 bits in base64url without padding."""
