"""Checks that the migrations make what the models say, on an empty database of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from app.dev.flask_command import run_flask


def check(root: Path) -> None:
    """Upgrades a new SQLite database and lets Alembic compare it with the models.

    Raises:
        click.ClickException: with the differences.
    """
    with tempfile.TemporaryDirectory() as folder:
        environ = dict(os.environ) | {"DATABASE_URL": f"sqlite:///{folder}/migrated.sqlite3"}
        run_flask("db", "upgrade", root=root, environ=environ)
        run_flask("db", "check", root=root, environ=environ)
