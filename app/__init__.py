"""The Flask application: data and pages. It asks for jobs by name and never imports them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
from flask import Flask

from app import accounts, admin, api, audit, demo, desk_host, dev, extensions, overview, reservations, work_items
from app.audit import views as audit_pages
from app.config import load_environment, read_settings, unknown_settings
from app.web import bodies, headers, limiting, malformed, proxies, static_files
from app.web import error_handlers as answers
from flask_belfry import mail, operations, outbox
from flask_belfry.core import logs, presentation
from flask_belfry.core.commands import RootGroup
from flask_belfry.core.settings import SettingError

log = structlog.get_logger(__name__)

ROOT = Path(__file__).resolve().parent.parent

# Slices of one shape; each registers its pages, endpoints, hooks and commands in `init_app`.
SLICES = (accounts, mail, reservations, work_items, operations, audit, overview)


def create_app(
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    instance_path: Path | None = None,
) -> Flask:
    """Makes an application. Nothing is connected before it is used.

    Args:
        overrides: settings that win over the environment, with APP_ENV=testing only.
        environ: the environment (the process's over `.env` by default).
        instance_path: where this installation keeps its files (`instance/` by default).

    Raises:
        SystemExit: a setting is wrong; the one line says which, and what it takes.
    """
    path = instance_path or ROOT / "instance"
    app = Flask(__name__, instance_path=str(path))
    app.cli = RootGroup(app.name)
    environ = environ or load_environment(ROOT)
    try:
        app.config.from_mapping(read_settings(environ, path, overrides))
    except SettingError as error:
        sys.exit(f"belfry: {error}")
    app.extensions["unknown_settings"] = unknown_settings(environ)
    _prepare(app)
    for name, nearest in app.extensions["unknown_settings"].items():
        log.warning("setting.unknown", name=name, nearest=nearest)
    return app


def _prepare(app: Flask) -> None:
    # Addresses of static files carry their time of change, see app.static_files.
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = timedelta(days=365)
    # The database, the broker's log and the caught mails are nobody else's on this machine.
    Path(app.instance_path).mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in (
        logs,
        malformed,
        proxies,
        bodies,
        extensions,
        outbox,
        limiting,
        headers,
        answers,
        presentation,
        static_files,
        api,
    ):
        part.init_app(app)
    for part in SLICES:
        part.init_app(app)
    for part in (desk_host, audit_pages, admin, demo, dev):
        part.init_app(app)
    # What no endpoint accepts is not received either.
    app.config["MAX_CONTENT_LENGTH"] = min(app.config["MAX_REQUEST_BYTES"], bodies.largest_body_bytes(app))
