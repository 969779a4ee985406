"""The pages and endpoints of work items."""

from __future__ import annotations

from flask import Flask

from app.api.web import register_api
from app.work_items import api, board, views


def init_app(app: Flask) -> None:
    """Add them. Must come after `app.api.web.init_app` and `app.accounts.web.init_app`."""
    app.register_blueprint(views.pages)
    app.register_blueprint(board.pages)
    for blueprint in api.blueprints:
        register_api(app, blueprint)
