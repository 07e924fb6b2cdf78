"""Code of one's own for a Lepton job: see docs/own-code.md."""
