"""Alembic revisions of storage's database."""
