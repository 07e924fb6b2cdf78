"""Runs the auth service, or one of its offline commands.

python -m lepton_auth [serve]
python -m lepton_auth init | join-token | issue | api-key | reset-password

lepton_auth.offline tells what these do.
"""

from __future__ import annotations

import sys

from lepton_auth import offline
from lepton_auth.bootstrap import authority, build
from lepton_auth.config import AuthSettings
from lepton_mesh.process import run_service


def main() -> None:
    arguments = sys.argv[1:]
    if arguments in ([], ["serve"]):
        run_service("auth", AuthSettings, build, authority=authority)
    else:
        sys.exit(offline.main(arguments))


if __name__ == "__main__":
    main()
