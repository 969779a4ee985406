"""The pages of the mail ledger, and the development inbox."""

from __future__ import annotations

from flask import Flask

from flask_belfry.mail import inbox, views


def init_app(app: Flask) -> None:
    """Add the pages, and the development inbox where there is one."""
    app.register_blueprint(views.pages)
    if app.config["APP_ENV"] != "production" and not app.config["MAIL_SERVER"]:
        app.register_blueprint(inbox.pages)
