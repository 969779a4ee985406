"""Accounts: who somebody is, and what they may do.

This face is all that other slices use: the user, the guards of pages, `can` and the rules behind it.
"""

from __future__ import annotations

from flask import Flask

from app.accounts import api, hooks, requests, views
from app.accounts.cli import users
from app.accounts.models import STAFF_ROLES, AccessToken, Role, User
from app.accounts.passwords import hash_password
from app.accounts.permissions import acting_user, allow, ask_to_log_in, can, login_required, require, require_role
from app.accounts.requests import act_as
from app.accounts.services import (
    authenticate,
    change_password,
    create_user,
    disable,
    find_user,
    get_user,
    names_of,
    set_role,
)
from app.accounts.tokens import issue_token, revoke, verify_token
from app.api import register_api

__all__ = [
    "STAFF_ROLES",
    "AccessToken",
    "Role",
    "User",
    "act_as",
    "acting_user",
    "allow",
    "ask_to_log_in",
    "authenticate",
    "can",
    "change_password",
    "create_user",
    "disable",
    "find_user",
    "get_user",
    "hash_password",
    "hooks",
    "init_app",
    "issue_token",
    "login_required",
    "names_of",
    "require",
    "require_role",
    "revoke",
    "set_role",
    "verify_token",
]


def init_app(app: Flask) -> None:
    """Recognises users on every request of `app`, and adds the pages, endpoints and commands of accounts.

    Must come after `app.extensions.init_app` and `app.api.init_app`.
    """
    requests.init_app(app)
    app.register_blueprint(views.pages)
    register_api(app, api.blueprint)
    app.cli.add_command(users)
