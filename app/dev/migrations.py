"""Check of the migrations against the models, on an empty database."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from app.dev.flask_command import run_flask


def check(root: Path) -> None:
    """Upgrade a new SQLite database and compare it with the models, using Alembic.

    Raises:
        click.ClickException: with the differences.
    """
    with tempfile.TemporaryDirectory() as folder:
        environ = dict(os.environ) | {"DATABASE_URL": f"sqlite:///{folder}/migrated.sqlite3"}
        run_flask("db", "upgrade", root=root, environ=environ)
        run_flask("db", "check", root=root, environ=environ)
