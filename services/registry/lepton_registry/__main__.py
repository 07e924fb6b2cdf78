"""Runs the registry: ``python -m lepton_registry``."""

from __future__ import annotations

from lepton_mesh.process import run_service
from lepton_registry.bootstrap import build
from lepton_registry.config import RegistrySettings


def main() -> None:
    run_service("registry", RegistrySettings, build)


if __name__ == "__main__":
    main()
