"""``python -m lepton_gateway``: the control plane, with its Envoy."""

from lepton_gateway import bootstrap
from lepton_gateway.config import GatewaySettings
from lepton_mesh.process import run_service


def main() -> None:
    run_service("gateway", GatewaySettings, bootstrap.build)


if __name__ == "__main__":
    main()
