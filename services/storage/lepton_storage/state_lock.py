"""Who uses a state directory: services share it, a command that changes keys has it alone."""

from __future__ import annotations

import fcntl
from io import FileIO
from pathlib import Path

from lepton_storage.errors import StateInUse


def lock_state(state_dir: Path, *, shared: bool) -> FileIO:
    """Locks ``state_dir`` until the answer is closed or the process ends. Raises StateInUse."""
    path = state_dir / "lock"
    file = FileIO(path, "a")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise StateInUse(
            f"{state_dir} is in use by "
            + (
                "a command that changes keys; wait until it ends"
                if shared
                else "a running storage service; stop it first (`lepton down`)"
            ),
            path=path,
        ) from None
    return file
