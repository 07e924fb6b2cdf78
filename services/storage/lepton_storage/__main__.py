"""Runs the storage service, or one of its offline commands.

python -m lepton_storage [serve]
python -m lepton_storage rotate-kek | destroy-keys      see lepton_storage.offline
"""

import sys

from lepton_mesh.process import run_service
from lepton_storage import bootstrap, offline
from lepton_storage.config import StorageSettings


def main() -> None:
    """Serves, or runs a command."""
    arguments = sys.argv[1:]
    if arguments in ([], ["serve"]):
        run_service("storage", StorageSettings, bootstrap.build)
    else:
        sys.exit(offline.main(arguments))


if __name__ == "__main__":
    main()
