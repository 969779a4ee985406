"""The Flask application: data and pages. It enqueues jobs by name and never imports them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog
from flask import Flask

from app import database, demo, desk_host, dev, schools
from app.config import load_environment, read_settings, unknown_settings
from app.web import limiting
from app.web.bodies import largest_body_bytes
from flask_belfry import outbox
from flask_belfry.core import logs, presentation, sentry
from flask_belfry.core.commands import RootGroup
from flask_belfry.core.settings import SettingError

log = structlog.get_logger(__name__)

ROOT = Path(__file__).resolve().parent.parent

# Slices of one shape. Every process imports the packages, with their models, services, hooks and mails; the web process
# also imports the module `web` of each, with its pages and endpoints.
SLICES = (
    "app.accounts",
    "flask_belfry.mail",
    "app.reservations",
    "app.work_items",
    "app.directory",
    "app.push",
    "app.notifications",
    "flask_belfry.operations",
    "app.audit",
)
# What only the web process imports, before and after the pages of the slices; in the order in which requests meet it.
BELOW_PAGES = (
    "app.web.malformed",
    "app.web.proxies",
    "app.web.bodies",
    "app.extensions",
    "app.web.headers",
    "app.web.error_handlers",
    "app.web.static_files",
    "app.api.web",
)
ABOVE_PAGES = ("app.overview", "app.jobs_api", "app.mails_api", "app.admin", "app.demo.commands")


def create_app(
    overrides: Mapping[str, Any] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    instance_path: Path | None = None,
    with_web: bool = True,
) -> Flask:
    """Make an application. Nothing is connected before it is used.

    Args:
        overrides: settings that win over the environment, with APP_ENV=testing only.
        environ: the environment (the process's over `.env` by default).
        instance_path: where this installation keeps its files (`instance/` by default).
        with_web: whether it serves requests. Workers, the scheduler and commands import no pages.

    Raises:
        SystemExit: a setting is wrong; the one line says which, and what is valid.
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
    _load(app, with_web=with_web)
    for name, nearest in app.extensions["unknown_settings"].items():
        log.warning("setting.unknown", name=name, nearest=nearest)
    return app


def _load(app: Flask, *, with_web: bool) -> None:
    # The database, the log of the broker and the caught mails must not be readable by other users of this machine.
    Path(app.instance_path).mkdir(mode=0o700, parents=True, exist_ok=True)
    for part in (logs, sentry, database, outbox, limiting, presentation):
        part.init_app(app)
    _init_modules(app, SLICES)
    for part in (desk_host, schools, demo, dev):
        part.init_app(app)
    if with_web:
        # Addresses of static files carry their time of change, see app.static_files.
        app.config["SEND_FILE_MAX_AGE_DEFAULT"] = timedelta(days=365)
        _init_modules(app, (*BELOW_PAGES, *(f"{name}.web" for name in SLICES), *ABOVE_PAGES))
        # What no endpoint accepts is not received either.
        app.config["MAX_CONTENT_LENGTH"] = min(app.config["MAX_REQUEST_BYTES"], largest_body_bytes(app))


def _init_modules(app: Flask, names: Iterable[str]) -> None:
    for name in names:
        import_module(name).init_app(app)
