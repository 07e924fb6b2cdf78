"""``python -m lepton_inference``: runs the inference service until SIGTERM or SIGINT."""

from __future__ import annotations

from lepton_inference.host import run


def main() -> None:
    """The entry point."""
    run()


if __name__ == "__main__":
    main()
