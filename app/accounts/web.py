"""The pages and endpoints of accounts."""

from __future__ import annotations

from flask import Flask

from app.accounts import (
    address_views,
    api,
    permissions,
    profile_views,
    registration_pages,
    requests,
    security,
    session_views,
    token_views,
)
from app.api.web import register_api


def init_app(app: Flask) -> None:
    """Recognise users on every request of `app`, and add the pages and endpoints.

    Must come after `app.extensions.init_app` and `app.api.web.init_app`.
    """
    requests.init_app(app)
    permissions.close(app)
    security.init_app(app)
    app.register_blueprint(registration_pages.pages)
    app.register_blueprint(token_views.pages)
    app.register_blueprint(profile_views.pages)
    app.register_blueprint(address_views.pages)
    app.register_blueprint(session_views.pages)
    register_api(app, api.blueprint)
    register_api(app, api.profile)
