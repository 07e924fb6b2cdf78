"""``python -m lepton_storage``: the storage service, until SIGTERM."""

from lepton_mesh.process import run_service
from lepton_storage import bootstrap
from lepton_storage.config import StorageSettings


def main() -> None:
    """Serves."""
    run_service("storage", StorageSettings, bootstrap.build)


if __name__ == "__main__":
    main()
