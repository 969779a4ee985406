"""The API of mails: the endpoints of the mail ledger, with the desk's tokens, scopes, errors and documentation."""

from __future__ import annotations

from flask import Flask

from app.api.web import ApiBlueprint, register_api
from flask_belfry.mail.api import add_endpoints

blueprint = ApiBlueprint("mails", __name__, description="Mails and suppressed email addresses", area="mails")
add_endpoints(blueprint)


def init_app(app: Flask) -> None:
    """Add the endpoints. Must come after `app.api.web.init_app`."""
    register_api(app, blueprint)
