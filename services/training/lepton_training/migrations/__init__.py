"""Alembic revisions of the training database."""
