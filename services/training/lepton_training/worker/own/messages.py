"""What the code's process tells the platform's: JSON objects, one a line, through a pipe."""

from __future__ import annotations

import json
import os


class Messages:
    """Writes them; for the code's process. Processes that it forks say nothing."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptor = descriptor
        self._pid = os.getpid()

    @property
    def ours(self) -> bool:
        """Whether this is the process that was started, and not one that it forked."""
        return os.getpid() == self._pid

    def send(self, kind: str, **content: object) -> None:
        """Sends one message; blocks while the platform is behind."""
        if not self.ours:
            return
        view = memoryview((json.dumps({"kind": kind, **content}) + "\n").encode())
        while view:
            view = view[os.write(self._descriptor, view) :]
