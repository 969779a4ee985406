"""The page of the audit log."""

from __future__ import annotations

from flask import Flask

from app.audit.views import pages


def init_app(app: Flask) -> None:
    """Add the page. Must come after `app.accounts.web.init_app`."""
    app.register_blueprint(pages)
