"""The pages and endpoints of notifications."""

from __future__ import annotations

from flask import Flask

from app.api.web import register_api
from app.notifications import api, inbox_views, preference_api, preference_views, views
from app.notifications.emails import paragraphs_of


def init_app(app: Flask) -> None:
    """Add them. Must come after `app.api.web.init_app` and `app.accounts.web.init_app`."""
    app.register_blueprint(views.pages)
    app.register_blueprint(inbox_views.pages)
    app.register_blueprint(preference_views.pages)
    register_api(app, preference_api.blueprint)
    register_api(app, api.blueprint)
    app.jinja_env.filters["paragraphs"] = paragraphs_of
    app.jinja_env.globals["unread_notifications"] = inbox_views.unread_notifications
