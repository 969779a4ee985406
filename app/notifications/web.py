"""The pages and endpoints of notifications."""

from __future__ import annotations

import re

from flask import Flask
from markupsafe import Markup

from app.api.web import register_api
from app.notifications import api, inbox_views, preference_api, preference_views, views

BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


def init_app(app: Flask) -> None:
    """Add them. Must come after `app.api.web.init_app` and `app.accounts.web.init_app`."""
    app.register_blueprint(views.pages)
    app.register_blueprint(inbox_views.pages)
    app.register_blueprint(preference_views.pages)
    register_api(app, preference_api.blueprint)
    register_api(app, api.blueprint)
    app.jinja_env.filters["text_blocks"] = text_blocks
    app.jinja_env.globals["notification_bell"] = lambda: Markup(inbox_views.render_bell())  # noqa: S704 - a template


def text_blocks(text: str) -> list[str]:
    """Return the paragraphs of a text: what blank lines separate."""
    return [block for block in BLANK_LINES.split(text.strip()) if block]
