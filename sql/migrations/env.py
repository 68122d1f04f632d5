"""Alembic's way in: it applies what is missing on the connection that `fracture migrate` opened and locked."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="schema_version",
    version_table_schema="fracture",
)
with context.begin_transaction():
    context.run_migrations()
