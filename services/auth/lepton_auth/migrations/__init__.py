"""The revisions of the auth service's database, oldest first in ``versions``."""
