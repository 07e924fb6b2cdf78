"""The directory that Envoy watches: each file is replaced at once, and only when it changed."""

from __future__ import annotations

import json
from pathlib import Path

from lepton_gateway.envoy import Json
from lepton_mesh.durable import write_private


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

        Raises:
            OSError: It cannot be written; what was there stays.
        """
        data = json.dumps(content, separators=(",", ":")).encode()
        if self._written.get(name) == data:
            return False
        write_private(self.directory / name, data, sync=False)
        self._written[name] = data
        return True
