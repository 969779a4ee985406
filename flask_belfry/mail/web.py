"""The pages of the mail ledger, of suppressions and of the development inbox: imported by the web process only."""

from __future__ import annotations

from flask import Flask

from flask_belfry.mail import bounce_views, inbox, suppression_views, views


def init_app(app: Flask) -> None:
    """Register the pages, and those of the development inbox unless MAIL_SERVER is set or APP_ENV is production."""
    app.register_blueprint(views.pages)
    app.register_blueprint(bounce_views.pages)
    # A mail server has no session, so no other site can use one.
    if csrf := app.extensions.get("csrf"):
        csrf.exempt(bounce_views.receive)
    app.register_blueprint(suppression_views.pages)
    if app.config["APP_ENV"] != "production" and not app.config["MAIL_SERVER"]:
        app.register_blueprint(inbox.pages)
