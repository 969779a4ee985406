"""What Alembic runs: the application's engine and models, on SQLite in batch mode, logged as everything else is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import sqlalchemy as sa
from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.util import CommandError
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
def _without_foreign_keys(connection: sa.Connection) -> Iterator[None]:
    """SQLite makes a table anew to change it: dropping the old one would take along the rows that refer to it."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.dbapi_connection  # a pragma has no effect within a transaction
    driver.execute("PRAGMA foreign_keys = OFF")
    yield
    driver.execute("PRAGMA foreign_keys = ON")
    broken = driver.execute("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise CommandError(f"rows refer to rows that are not there: {broken[:5]}")


def run() -> None:
    """Runs the migrations in one transaction."""
    options = current_app.extensions["migrate"].configure_args
    with db.engine.connect() as connection, _without_foreign_keys(connection):
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
