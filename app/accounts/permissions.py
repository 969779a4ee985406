"""The one place that decides who may do what. Closed by default: what no rule allows is refused.

A slice declares the rules of its own actions with `allow`; nobody asks for a role anywhere else than here.
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
from app.api import UnauthenticatedError, is_api_request
from flask_belfry.core.access import is_for_unconfirmed, is_public, public
from flask_belfry.core.errors import ForbiddenError

P = ParamSpec("P")
Rule = Callable[[User, Any], bool]
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_rules: dict[str, Rule] = {"schools.view_all": lambda user, _: user.role is Role.ADMIN}


class UnconfirmedError(ForbiddenError):
    """You are known, and have yet to confirm your email address."""


class StaleLoginError(ForbiddenError):
    """You are known, and your login is too old for this."""


def allow(action: str, rule: Rule) -> None:
    """Declares who may do `action`, `<slice>.<verb>`. The rule gets an active user, and the row if there is one."""
    _rules[action] = rule


def can(user: User | None, action: str, row: object = None) -> bool:
    """Whether `user` may do `action` to `row`. Nobody, a disabled or unconfirmed user and an unknown action: no."""
    rule = _rules.get(action)
    return rule is not None and user is not None and user.is_active and user.is_confirmed and rule(user, row)


def require(user: User | None, action: str, row: object = None, *, message: str = "") -> None:
    """Raises ForbiddenError unless `can`."""
    if not can(user, action, row):
        raise ForbiddenError(message or "You may not do this.")


def acting_user() -> User:
    """Who makes this request.

    Raises:
        UnauthenticatedError: nobody is logged in.
        UnconfirmedError: the user has yet to confirm the address.
    """
    user = _present_user()
    if not user.is_confirmed:
        raise UnconfirmedError("Confirm your email address first: the code is in the email that you received.")
    return user


def _present_user() -> User:
    """Who makes this request, confirmed or not. Raises UnauthenticatedError."""
    user = current_user._get_current_object()  # noqa: SLF001 - werkzeug's documented way through its proxies
    if not isinstance(user, User):
        raise UnauthenticatedError("Log in first.")
    return user


def claimant() -> User | None:
    """Who makes this request, if it is a user who has yet to confirm the address."""
    return _present_user() if current_user.is_authenticated and not current_user.is_confirmed else None


def require_fresh_login() -> None:
    """For what changes how one logs in, or gives out more than a page shows. Raises StaleLoginError."""
    if not sessions.is_fresh():
        minutes = round(sessions.FRESH_FOR.total_seconds() / 60)
        raise StaleLoginError(f"This requires a login of the last {minutes} minutes: log in again.")


def close(app: Flask) -> None:
    """Admits only users with a confirmed email address, except to what is `public`."""
    app.before_request(_ask_who)


def login_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """Lets only those in who have confirmed their address; others are led to where they do."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        acting_user()
        return view(*args, **kwargs)

    return guarded


def fresh_login_required(view: Callable[P, ResponseReturnValue]) -> Callable[P, ResponseReturnValue]:
    """As `login_required`, and asks for the password again when the login was long ago."""

    @login_required
    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> ResponseReturnValue:
        require_fresh_login()
        return view(*args, **kwargs)

    return guarded


def require_role(
    *roles: Role | str,
) -> Callable[[Callable[P, ResponseReturnValue]], Callable[P, ResponseReturnValue]]:
    """Lets only users of these roles in: others get a 403, and who has yet to confirm what `login_required` gives."""
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
    """The way to the login page and back. Raises UnauthenticatedError in the API."""
    if is_api_request():
        raise UnauthenticatedError.of_request()
    return _lead_to("security.login", _page_to_return_to())


def ask_for_password() -> Response:
    """The way to the page that asks for the password again, and back to the page with the form."""
    return _lead_to("security.verify", _page_to_return_to() or _path_of(request.referrer or ""))


def _lead_to(endpoint: str, next_path: str | None) -> Response:
    if "HX-Request" not in request.headers:
        return make_response(redirect(url_for(endpoint, next=next_path)))
    # A part of a page that htmx asked for: a redirect would put the form into that part.
    response = make_response("", 401)
    response.headers["HX-Redirect"] = url_for(endpoint, next=_path_of(request.headers.get("HX-Current-URL", "")))
    return response


def _ask_who() -> Response | None:
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
    """Where no route leads: that is told to everybody."""


def _page_to_return_to() -> str | None:
    # What was posted is lost; to come back with a GET would be an error page.
    return request.full_path.rstrip("?") if request.method in SAFE_METHODS else None


def _path_of(url: str) -> str | None:
    parts = urlsplit(url)
    return (parts.path + (f"?{parts.query}" if parts.query else "")) or None
