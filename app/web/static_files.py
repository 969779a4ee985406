"""Static files: public, and cached by browsers until they change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flask import Flask, current_app

from flask_belfry.core.access import open_endpoints


def init_app(app: Flask) -> None:
    """Add the modification time to the URLs of static files."""
    app.url_defaults(_add_version)
    open_endpoints(app, "static")


def _add_version(endpoint: str, values: dict[str, Any]) -> None:
    """Add the modification time to the URL of a static file, so that browsers can cache the file permanently."""
    if endpoint == "static" and "filename" in values and "v" not in values:
        path = Path(current_app.static_folder or "") / values["filename"]
        if path.is_file():
            values["v"] = int(path.stat().st_mtime)
