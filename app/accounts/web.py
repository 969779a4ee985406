"""The pages and endpoints of accounts."""

from __future__ import annotations

from flask import Flask

from app.accounts import (
    api,
    login_views,
    permissions,
    profile_views,
    requests,
    security,
    token_views,
    unsubscribing_views,
    views,
)
from app.api.web import register_api


def init_app(app: Flask) -> None:
    """Recognise users on every request of `app`, and add the pages and endpoints.

    Must come after `app.extensions.init_app` and `app.api.web.init_app`.
    """
    requests.init_app(app)
    permissions.close(app)
    security.init_app(app)
    app.register_blueprint(views.pages)
    app.register_blueprint(token_views.pages)
    app.register_blueprint(profile_views.pages)
    app.register_blueprint(login_views.pages)
    app.register_blueprint(login_views.session_pages)
    app.register_blueprint(unsubscribing_views.pages)
    register_api(app, api.blueprint)
    register_api(app, api.profile)
