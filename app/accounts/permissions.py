"""Permissions. Denied by default: an action without a rule is refused.

A slice declares the rules of its actions with `allow`; roles are not checked outside of rules.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec
from urllib.parse import urlsplit

from flask import Flask, Response, current_app, make_response, redirect, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user

from app.accounts import sessions
from app.accounts.models import Role, User
from app.api import READING_METHODS, UnauthenticatedError, is_api_request
from flask_belfry.core.access import is_for_unconfirmed, is_public, public
from flask_belfry.core.errors import ForbiddenError

P = ParamSpec("P")
Rule = Callable[[User, Any], bool]

_rules: dict[str, Rule] = {"schools.view_all": lambda user, _: user.role is Role.ADMIN}


class UnconfirmedError(ForbiddenError):
    """The user has not confirmed the email address."""


class StaleLoginError(ForbiddenError):
    """The login is too old for this."""


def allow(action: str, rule: Rule) -> None:
    """Declare the rule of `action`, `<slice>.<verb>`. The rule receives an active user, and the row if there is one."""
    _rules[action] = rule


def can(user: User | None, action: str, row: object = None) -> bool:
    """Return whether `user` may do `action` to `row`; no for disabled or unconfirmed users and for unknown actions."""
    rule = _rules.get(action)
    return rule is not None and user is not None and user.is_active and user.is_confirmed and rule(user, row)


def require(user: User | None, action: str, row: object = None, *, message: str = "") -> None:
    """Raise ForbiddenError unless `can`."""
    if not can(user, action, row):
        raise ForbiddenError(message or "You may not do this.")


def acting_user() -> User:
    """Return the user of this request.

    Raises:
        UnauthenticatedError: the request has no login.
        UnconfirmedError: the user has not confirmed the email address.
    """
    user = _current_user()
    if not user.is_confirmed:
        raise UnconfirmedError("Confirm your email address first: the code is in the email that you received.")
    return user


def _current_user() -> User:
    """Return the user of this request, confirmed or not. Raises UnauthenticatedError."""
    user = _logged_in()
    if user is None:
        raise UnauthenticatedError("Log in first.")
    return user


def _logged_in() -> User | None:
    user = current_user._get_current_object()  # noqa: SLF001 - werkzeug's documented way through its proxies
    return user if isinstance(user, User) else None


def confirmed_user() -> User | None:
    """Return the user of this request if there is a login and the email address is confirmed: for what pages show to
    users and to visitors."""
    user = _logged_in()
    return user if user is not None and user.is_active and user.is_confirmed else None


def claimant() -> User | None:
    """Return the user of this request if the email address is not confirmed yet, or None."""
    return _current_user() if current_user.is_authenticated and not current_user.is_confirmed else None


def require_fresh_login() -> None:
    """Raise StaleLoginError unless the login is recent: for changes of credentials and for exports."""
    if not sessions.is_fresh():
        minutes = round(sessions.FRESH_FOR.total_seconds() / 60)
        raise StaleLoginError(f"This requires a login of the last {minutes} minutes: log in again.")


def close(app: Flask) -> None:
    """Restrict all views but `public` ones to users with a confirmed email address."""
    app.before_request(_require_login)


def login_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Restrict a view to users with a confirmed email address; others are redirected to the confirmation."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        acting_user()
        return view(*args, **kwargs)

    return guarded


def fresh_login_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """As `login_required`, and redirect to the password if the login is not recent."""

    @login_required
    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        require_fresh_login()
        return view(*args, **kwargs)

    return guarded


def require_role(
    *roles: Role | str,
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """As `login_required`, and respond with 403 to users of other roles."""
    wanted = frozenset(Role(role) for role in roles)
    named = " and ".join("staff" if role is Role.STAFF else f"{role}s" for role in sorted(wanted, reverse=True))

    def decorate(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
        @login_required
        @wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
            if current_user.role not in wanted:
                raise ForbiddenError(f"This page is for {named} only.")
            return view(*args, **kwargs)

        return guarded

    return decorate


def ask_to_log_in() -> Response:
    """Redirect to the login page, with the way back. Raises UnauthenticatedError in the API."""
    if is_api_request():
        raise UnauthenticatedError.of_request()
    return _redirect_to("security.login", _page_to_return_to())


def ask_for_password() -> Response:
    """Redirect to the page that asks for the password, with the way back to the page of the form."""
    return _redirect_to("security.verify", _page_to_return_to() or _path_of(request.referrer or ""))


def _redirect_to(endpoint: str, next_path: str | None) -> Response:
    if "HX-Request" not in request.headers:
        return make_response(redirect(url_for(endpoint, next=next_path)))
    # A fragment requested by htmx: a redirect would load the form into the fragment.
    response = make_response("", 401)
    response.headers["HX-Redirect"] = url_for(endpoint, next=_path_of(request.headers.get("HX-Current-URL", "")))
    return response


def _require_login() -> Response | None:
    view = current_app.view_functions.get(request.endpoint or "", _nowhere)
    if is_public(view):
        return None
    if not current_user.is_authenticated:
        return ask_to_log_in()
    if not is_for_unconfirmed(view):
        acting_user()
    sessions.note_use()
    return None


@public
def _nowhere() -> None:
    """Stand for a path without a route: its 404 is public."""


def _page_to_return_to() -> str | None:
    # A POST is lost: a GET of the same path would be an error page.
    return request.full_path.rstrip("?") if request.method in READING_METHODS else None


def _path_of(url: str) -> str | None:
    parts = urlsplit(url)
    return (parts.path + (f"?{parts.query}" if parts.query else "")) or None
