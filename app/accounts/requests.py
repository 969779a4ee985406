"""Who and what stands behind a request: its id, its user, and the origin of the changes it makes.

Pages know their user by the session, the API by a bearer token, and neither takes the other's. Nobody is loaded
before somebody asks: a static file costs no query.
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
from app.web.proxies import client_address, user_agent
from flask_belfry.changes import Actor, current_actor, set_actor, use_actor
from flask_belfry.db.tenancy import ALL_TENANTS, NOTHING, Scope, current_scope, set_scope, use_scope

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")


def init_app(app: Flask) -> None:
    """Puts the beginning before everything else that `app` does for a request."""
    app.before_request_funcs.setdefault(None, [])[:0] = (begin_request, limits.limit_writes)
    app.after_request(name_request)
    app.teardown_request(end_request)


def begin_request() -> None:
    """Called first: gives the request its id and its origin, and recognises the bearer of a token."""
    # Where one application context serves several requests, as in tests, nobody stays from the one before.
    for name in ("_login_user", "login_session", "access_token", "token_scopes", "zone"):
        g.pop(name, None)
    g.request_id = _request_id(request.headers.get("X-Request-Id", ""))
    g.actor_before = current_actor()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    set_actor(Actor(None, g.request_id, address=client_address(), user_agent=user_agent()))
    g.scope_before = current_scope()
    set_scope(NOTHING)
    if is_api_request():
        _recognise_bearer()


def name_request(response: Response) -> Response:
    """Tells the caller the request's id: it stands in every log line, job and change that the request caused."""
    if "request_id" in g:
        response.headers["X-Request-Id"] = g.request_id
    return response


def end_request(_: BaseException | None) -> None:
    """Called last: this thread's next request is somebody else's."""
    if "actor_before" not in g:
        return
    set_actor(g.pop("actor_before"))
    set_scope(g.pop("scope_before"))
    structlog.contextvars.unbind_contextvars("request_id", "user_id")


def act_as(user: User) -> None:
    """From here on the request's changes are the user's, it sees what is the user's school's, and its times are on the
    user's clock."""
    set_actor(replace(current_actor(), user_id=user.id, school_id=user.school_id))
    set_scope(ALL_TENANTS if can(user, "schools.view_all") else Scope(user.school_id))
    structlog.contextvars.bind_contextvars(user_id=user.id)
    if user.time_zone:
        g.zone = user.time_zone


@contextmanager
def on_behalf_of(user: User) -> Iterator[None]:
    """`act_as` for a block: for commands that name who does it."""
    with use_actor(current_actor()), use_scope(current_scope()):
        act_as(user)
        yield


def forget() -> None:
    """From here on the request is nobody's."""
    set_actor(replace(current_actor(), user_id=None, school_id=None))
    set_scope(NOTHING)


def presented_token() -> AccessToken:
    """The access token that this request came with. Only behind a guard that requires one."""
    return g.access_token


def _recognise_bearer() -> None:
    with use_scope(ALL_TENANTS):  # of which school is only known then
        token = _verify_header()
    if token is not None:
        g.access_token, g.token_scopes = token, token.scopes
        act_as(token.user)
    # Flask-Login's request_loader would ask the session and the remember cookie first, which have no say here.
    login_manager = current_app.extensions["security"].login_manager
    login_manager._update_request_context_with_user(token.user if token else None)  # noqa: SLF001


def _verify_header() -> AccessToken | None:
    header = request.authorization
    if header is None or header.type != "bearer" or not header.token:
        return None
    return verify_token(header.token)


def _request_id(given: str) -> str:
    return given if REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
