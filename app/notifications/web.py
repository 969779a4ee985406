"""The pages and endpoints of notifications."""

from __future__ import annotations

from flask import Flask

from app.api.web import register_api
from app.notifications import api, preference_api, preference_views


def init_app(app: Flask) -> None:
    """Add them. Must come after `app.api.web.init_app` and `app.accounts.web.init_app`."""
    app.register_blueprint(preference_views.pages)
    register_api(app, preference_api.blueprint)
    register_api(app, api.blueprint)
