"""Accounts: users, logins, tokens and permissions. Other slices use this public API only."""

from __future__ import annotations

from flask import Flask

from app.accounts import hooks, personal, preferences
from app.accounts.codes import prune as prune_codes
from app.accounts.emails import forget_deleted
from app.accounts.figures import account_figures
from app.accounts.logins import prune_login_addresses
from app.accounts.models import (
    READER_ZONE,
    STAFF_ROLES,
    AccessToken,
    AccountCode,
    AddressState,
    LoginAddress,
    LoginSession,
    MessagePreference,
    Role,
    User,
)
from app.accounts.passwords import hash_password
from app.accounts.permissions import (
    acting_user,
    allow,
    ask_to_log_in,
    can,
    confirmed_user,
    login_required,
    require,
    require_fresh_login,
    require_role,
)
from app.accounts.registration import prune_unconfirmed, resend_confirmation, send_password_reset
from app.accounts.requests import act_as, on_behalf_of
from app.accounts.services import (
    authenticate,
    change_password,
    change_user,
    check_not_last_admin,
    create_user,
    disable,
    end_sessions_and_tokens,
    find_user,
    get_user,
    names_of,
)
from app.accounts.sessions import prune_sessions
from app.accounts.tokens import (
    Pair,
    issue_pair,
    issue_personal_token,
    prune_tokens,
    refresh_pair,
    revoke,
    verify_token,
)
from app.accounts.unsubscribing import on_unsubscribe, unsubscribe_path
from flask_belfry.core.commands import add_lazy_command

__all__ = [
    "READER_ZONE",
    "STAFF_ROLES",
    "AccessToken",
    "AccountCode",
    "AddressState",
    "LoginAddress",
    "LoginSession",
    "MessagePreference",
    "Pair",
    "Role",
    "User",
    "account_figures",
    "act_as",
    "acting_user",
    "allow",
    "ask_to_log_in",
    "authenticate",
    "can",
    "change_password",
    "change_user",
    "check_not_last_admin",
    "confirmed_user",
    "create_user",
    "disable",
    "end_sessions_and_tokens",
    "find_user",
    "forget_deleted",
    "get_user",
    "hash_password",
    "hooks",
    "init_app",
    "issue_pair",
    "issue_personal_token",
    "login_required",
    "names_of",
    "on_behalf_of",
    "on_unsubscribe",
    "personal",
    "preferences",
    "prune_codes",
    "prune_login_addresses",
    "prune_sessions",
    "prune_tokens",
    "prune_unconfirmed",
    "refresh_pair",
    "require",
    "require_fresh_login",
    "require_role",
    "resend_confirmation",
    "revoke",
    "send_password_reset",
    "unsubscribe_path",
    "verify_token",
]


def init_app(app: Flask) -> None:
    """Add the commands of accounts. Its pages and endpoints are added by `app.accounts.web`."""
    add_lazy_command(app, "users", "app.accounts.cli:users")
