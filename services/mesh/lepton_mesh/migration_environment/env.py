"""The Alembic environment of every service; :func:`lepton_mesh.database.upgrade` runs it."""

from alembic import context

connection = context.config.attributes["connection"]

context.configure(
    connection=connection,
    # SQLite cannot alter most of a table: Alembic copies it instead ("batch" mode).
    render_as_batch=connection.dialect.name == "sqlite",
    # The caller opened one transaction around all of it, on SQLite too.
    transactional_ddl=True,
)

with context.begin_transaction():
    context.run_migrations()
