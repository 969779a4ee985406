"""The application's own extensions: created here, bound to an application in `create_app`."""

from __future__ import annotations

from flask import Flask
from flask_migrate import Migrate
from flask_wtf.csrf import CSRFProtect

from flask_belfry.db import db, engine

migrate = Migrate(db=db, render_as_batch=True)
csrf = CSRFProtect()


def init_app(app: Flask) -> None:
    """Binds every extension to `app`."""
    engine.init_app(app)
    migrate.init_app(app, db)
    csrf.init_app(app)
