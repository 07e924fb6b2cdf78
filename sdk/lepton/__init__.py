"""Lepton's client side: the generated API, the SDK and the ``lepton`` command.

Importing this package imports nothing else; take :mod:`lepton.client` for the SDK.
"""

__version__ = "0.1.0"
