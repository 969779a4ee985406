"""The context of a request: its id, its user, and the actor of its changes.

Pages authenticate by session, the API by bearer token, and neither accepts the other. The user of a session is loaded
at the first access, so a static file costs no query.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import structlog
from flask import Flask, Response, current_app, g, request

from app.accounts import limits
from app.accounts.models import AccessToken, User
from app.accounts.permissions import can
from app.accounts.tokens import verify_token
from app.api import is_api_request
from app.web.proxies import client_ip_address, user_agent
from flask_belfry.changes import Actor, current_actor, set_actor, use_actor
from flask_belfry.db.tenancy import ALL_TENANTS, NOTHING, Scope, current_scope, set_scope, use_scope

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


def init_app(app: Flask) -> None:
    """Run `begin_request` before all other functions of a request."""
    app.before_request_funcs.setdefault(None, [])[:0] = (begin_request, limits.limit_writes)
    app.after_request(name_request)
    app.teardown_request(end_request)


def begin_request() -> None:
    """Set the id, the actor and the scope of the request, and verify a bearer token. Called first."""
    # One application context can serve several requests, as in tests: reset the user of the last one.
    for name in ("_login_user", "login_session", "access_token", "token_scopes", "zone"):
        g.pop(name, None)
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
    g.actor_before = current_actor()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    set_actor(Actor(None, g.request_id, ip_address=client_ip_address(), user_agent=user_agent()))
    g.scope_before = current_scope()
    set_scope(NOTHING)
    if is_api_request():
        _recognise_bearer()


def name_request(response: Response) -> Response:
    """Return the request's id to the client; it is in every log line, job and change of the request."""
    if "request_id" in g:
        response.headers["X-Request-Id"] = g.request_id
    return response


def end_request(_: BaseException | None) -> None:
    """Reset the context of the thread. Called last."""
    if "actor_before" not in g:
        return
    set_actor(g.pop("actor_before"))
    set_scope(g.pop("scope_before"))
    structlog.contextvars.unbind_contextvars("request_id", "user_id")


def act_as(user: User) -> None:
    """Make `user` the actor of the request, and set the scope and the time zone to the user's."""
    set_actor(replace(current_actor(), user_id=user.id, school_id=user.school_id))
    set_scope(ALL_TENANTS if can(user, "schools.view_all") else Scope(user.school_id))
    structlog.contextvars.bind_contextvars(user_id=user.id)
    if user.reader_zone:
        g.zone = user.reader_zone


@contextmanager
def on_behalf_of(user: User) -> Iterator[None]:
    """`act_as` for a block: for commands that name a user."""
    with use_actor(current_actor()), use_scope(current_scope()):
        act_as(user)
        yield


def forget() -> None:
    """Reset the actor and the scope: the request has no user any more."""
    set_actor(replace(current_actor(), user_id=None, school_id=None))
    set_scope(NOTHING)


def presented_token() -> AccessToken:
    """Return the access token of this request. Only for views that require one."""
    return g.access_token


def _recognise_bearer() -> None:
    with use_scope(ALL_TENANTS):  # the school is known only after the lookup
        token = _verify_header()
    if token is not None:
        g.access_token, g.token_scopes = token, token.scopes
        act_as(token.user)
    # Flask-Login's request_loader would read the session and the remember cookie first, which the API ignores.
    login_manager = current_app.extensions["security"].login_manager
    login_manager._update_request_context_with_user(token.user if token else None)  # noqa: SLF001


def _verify_header() -> AccessToken | None:
    header = request.authorization
    if header is None or header.type != "bearer" or not header.token:
        return None
    return verify_token(header.token)
