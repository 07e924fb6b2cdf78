"""Alembic revisions of the inference service's database."""
