"""Commands on the keys, for whoever may read the state directory, while the service is stopped.

    python -m lepton_storage rotate-kek                    a new key-encryption key
    python -m lepton_storage destroy-keys --workspace lab  erases all bytes of a workspace;
                                                           a new key-encryption key as well

They read the service's own settings: ``LEPTON_STATE_DIR`` at least. A service that runs on the
same state directory makes them refuse; instances elsewhere that share the database have to be
stopped by hand, and need the new kek.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from lepton_mesh.errors import LeptonError
from lepton_storage.bootstrap import Storage, open_storage
from lepton_storage.config import StorageSettings
from lepton_storage.errors import NoWorkspaceKey
from lepton_storage.state_lock import lock_state


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status. A failure is one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        settings = StorageSettings.load("storage")
        with lock_state(settings.state_dir, shared=False):
            storage = open_storage(settings)
            try:
                print(options.run(storage, options))  # noqa: T201 - what a command is for
            finally:
                storage.close()
    except LeptonError as error:
        print(f"lepton_storage: {error.message}", file=sys.stderr)  # noqa: T201 - as above
        return 1
    return 0


def rotate_kek(storage: Storage, _: argparse.Namespace) -> str:
    """Re-wraps every workspace key and forgets the old key-encryption key."""
    return f"re-wrapped {storage.keys.rotate()} workspace keys; back kek.json and the database up"


def destroy_keys(storage: Storage, options: argparse.Namespace) -> str:
    """Erases what a workspace stored, up to older copies of kek.json. Raises NoWorkspaceKey."""
    count = storage.keys.destroy(options.workspace)
    if not count:
        raise NoWorkspaceKey(
            f"workspace '{options.workspace}' has no key here: it stored nothing, or its keys "
            "are destroyed already; if the command that did so was interrupted, run rotate-kek",
            workspace=options.workspace,
        )
    return (
        f"destroyed {count} keys of workspace '{options.workspace}' and changed the key-encryption "
        "key; back kek.json and the database up, then delete every older copy of kek.json: with "
        "one, and an older copy of the database, the bytes can still be read"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lepton_storage")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("rotate-kek", help="change the key-encryption key")
    command.set_defaults(run=rotate_kek)
    command = commands.add_parser("destroy-keys", help="erase all bytes of a workspace")
    command.add_argument("--workspace", required=True, help="the workspace's id")
    command.set_defaults(run=destroy_keys)
    return parser
