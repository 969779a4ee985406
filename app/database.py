"""The database of an application, and its migrations."""

from __future__ import annotations

from functools import partial
from typing import Any

from flask import Flask
from werkzeug.local import LocalProxy

from flask_belfry.core.commands import add_lazy_command
from flask_belfry.db import db, engine


def init_app(app: Flask) -> None:
    """Bind the database to `app`. Alembic is imported when a migration first needs its settings."""
    engine.init_app(app)
    app.extensions["migrate"] = LocalProxy(partial(_migrate_settings, app))
    add_lazy_command(app, "db", "flask_migrate.cli:db")


def _migrate_settings(app: Flask) -> Any:
    from flask_migrate import Migrate

    Migrate(app, db, render_as_batch=True)  # puts its settings in place of the proxy
    return app.extensions["migrate"]
