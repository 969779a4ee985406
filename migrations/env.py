"""What Alembic runs: the application's engine and models, on SQLite in batch mode, logged as everything else is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext
from flask import current_app
from sqlalchemy.types import TypeDecorator

from app.extensions import db


def render_item(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Writes our column types as what the database knows, so that a migration outlives the code it was made from."""
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl_instance!r}"
    return False


def skip_empty(migration_context: object, revision: object, directives: list[Any]) -> None:
    """Makes no migration where nothing changed."""
    options = context.config.cmd_opts
    if getattr(options, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []


@contextmanager
def _free_to_rebuild_tables(connection: sa.Connection) -> Iterator[None]:
    """SQLite changes a table by making it anew. To drop the old one would delete what refers to it by a foreign key.

    Raises:
        RuntimeError: the migration left a reference to a row that is not there. Nothing of it is kept.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    # Past SQLAlchemy, which would begin a transaction first: within one SQLite ignores this.
    driver = connection.connection.dbapi_connection
    assert driver is not None
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        with connection.begin():
            yield
            if broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all():
                raise RuntimeError(f"the migration leaves references to missing rows: {broken[:5]}")
    finally:
        driver.execute("PRAGMA foreign_keys = ON")


def run() -> None:
    """Runs the migrations in one transaction."""
    options = current_app.extensions["migrate"].configure_args
    with db.engine.connect() as connection, _free_to_rebuild_tables(connection):
        context.configure(
            connection=connection,
            target_metadata=db.metadata,
            render_item=render_item,
            process_revision_directives=skip_empty,
            # Ours begin SQLite transactions explicitly, so that a migration is done whole or not at all.
            transactional_ddl=True,
            **options,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
