"""Loading the Flask application in a process that RQ started."""

from __future__ import annotations

import os

from flask import Flask, has_app_context
from flask.cli import ScriptInfo
from flask.globals import app_ctx


def application() -> Flask:
    """Return the current application; without one, what Flask's own CLI would load (FLASK_APP, else ./wsgi.py)."""
    if has_app_context():
        return app_ctx.app
    return ScriptInfo(app_import_path=os.environ.get("FLASK_APP")).load_app()
