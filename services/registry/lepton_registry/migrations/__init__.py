"""The revisions of the registry's database, oldest first in ``versions``."""
