"""The pages and endpoints of reservations."""

from __future__ import annotations

from flask import Flask

from app.api.web import register_api
from app.reservations import api, views


def init_app(app: Flask) -> None:
    """Add them. Must come after `app.api.web.init_app` and `app.accounts.web.init_app`."""
    app.register_blueprint(views.pages)
    register_api(app, api.blueprint)
