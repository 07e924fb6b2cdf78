"""The directory that Envoy watches: each file is replaced at once, and only when it changed."""

from __future__ import annotations

import json
import os
from pathlib import Path

from lepton_gateway.envoy import Json


class ConfigurationFiles:
    """Files of JSON in one directory, readable by this user alone: one holds a private key."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._written: dict[str, bytes] = {}

    def write(self, name: str, content: Json) -> bool:
        """Renames a new file over ``name``, which is what Envoy reacts to.

        Returns whether there was anything new. A few kilobytes to the page cache, so it is
        done in the event loop; nothing is synced, since a new start writes everything anew.
        """
        data = json.dumps(content, separators=(",", ":")).encode()
        if self._written.get(name) == data:
            return False
        path = self.directory / name
        temporary = path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        temporary.rename(path)
        self._written[name] = data
        return True
