"""The pages and endpoints of push."""

from __future__ import annotations

from flask import Flask

from app.api.web import register_api
from app.push import api, views


def init_app(app: Flask) -> None:
    """Add them."""
    app.register_blueprint(views.pages)
    register_api(app, api.blueprint)
