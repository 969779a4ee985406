"""The pages and endpoints of schools, classes and students."""

from __future__ import annotations

from flask import Flask

from app.api.web import register_api
from app.directory import api, class_views, school_views, views


def init_app(app: Flask) -> None:
    """Add them. Must come after `app.api.web.init_app` and `app.accounts.web.init_app`."""
    for module in (views, class_views, school_views):
        app.register_blueprint(module.pages)
    for blueprint in (api.school_endpoints, api.class_endpoints, api.student_endpoints):
        register_api(app, blueprint)
