"""What Alembic runs: the application's engine and models, on SQLite in batch mode, logged as everything else is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from alembic.util import CommandError
from flask import current_app
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeDecorator

from flask_belfry.core.database_errors import database_problem, is_database_away
from flask_belfry.db import db
from flask_belfry.db.columns import UuidText


def render_item(kind: str, item: Any, autogen: AutogenContext) -> str | Literal[False]:
    """Writes our column types as what the database knows, so that a migration outlives the code it was made from."""
    if kind == "type" and isinstance(item, UuidText):
        return "sa.Uuid(as_uuid=False)"
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl_instance!r}"
    return False


def skip_empty(migration_context: object, revision: object, directives: list[Any]) -> None:
    """Makes no migration where nothing changed."""
    options = context.config.cmd_opts
    if getattr(options, "autogenerate", False) and directives[0].upgrade_ops.is_empty():
        directives[:] = []


@contextmanager
def tables_replaceable(connection: Connection) -> Iterator[None]:
    """Lets a block replace tables that others refer to, which is how SQLite changes a constraint.

    Else the old table's end would delete the rows that refer to it. SQLite hears this between transactions only, see
    "Making other kinds of table schema changes" in its documentation of ALTER TABLE.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.execute("PRAGMA foreign_keys = OFF")
    try:
        yield
    finally:
        connection.rollback()  # ends what has not been committed, or the next line would not be heard
        driver.execute("PRAGMA foreign_keys = ON")


def check_broken_references(connection: Connection) -> None:
    """Raises RuntimeError when a migration left rows on SQLite that refer to none: nothing else has looked."""
    if connection.dialect.name == "sqlite" and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
        raise RuntimeError(f"the migration breaks references: {broken[:3]}")


def run() -> None:
    """Runs the migrations in one transaction."""
    options = current_app.extensions["migrate"].configure_args
    try:
        _run(options)
    except DBAPIError as error:
        if not is_database_away(error) and error.statement is not None:
            raise
        raise CommandError(database_problem(error)) from error  # Flask-Migrate reports it in one line


def _run(options: dict[str, Any]) -> None:
    with db.engine.connect() as connection, tables_replaceable(connection):
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
            check_broken_references(connection)


run()
