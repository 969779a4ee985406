"""The API of accounts: logging in and out, tokens, and oneself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import url_for

from app.accounts import services
from app.accounts.models import AccessToken, User
from app.accounts.permissions import acting_user, require
from app.accounts.requests import act_as, presented_token
from app.accounts.schemas import (
    LoginSchema,
    NewPersonalTokenSchema,
    PairSchema,
    PersonalTokenSchema,
    RefreshSchema,
    ShownPersonalTokenSchema,
    UserSchema,
)
from app.accounts.tokens import (
    get_personal_token,
    issue_pair,
    issue_personal_token,
    personal_tokens,
    refresh_pair,
    revoke,
)
from app.api import ApiBlueprint, QueryOfPage, UnauthenticatedError, page_answer, page_schema, public, secret_answer
from app.extensions import commit_and_keep, db

# Without an area: what makes and ends logins takes no personal token.
blueprint = ApiBlueprint("accounts", __name__, description="Logging in and out, and tokens for scripts")
profile = ApiBlueprint("profile", __name__, description="Oneself", area="profile")

ONE_TOKEN = "/me/tokens/<id:token_id>"  # noqa: S105 - a path


@blueprint.route("/auth/login", methods=["POST"])
@blueprint.arguments(LoginSchema)
@blueprint.response(200, PairSchema)
@blueprint.alt_response(401, description="No user has this login and password.")
@public
def login(credentials: dict[str, str]) -> Mapping[str, Any]:
    """Log in: a pair of tokens for a username or email address and a password"""
    identifier = credentials.get("username") or credentials.get("email") or ""
    user = services.authenticate(identifier, credentials["password"])
    if user is None:
        raise UnauthenticatedError("No user has this login and password.")
    act_as(user)
    pair = issue_pair(user)
    commit_and_keep()
    return vars(pair)


@blueprint.route("/auth/refresh", methods=["POST"])
@blueprint.arguments(RefreshSchema)
@blueprint.response(200, PairSchema)
@blueprint.alt_response(401, description="It is unknown, expired, revoked or was used before: log in again.")
@public
def refresh(given: dict[str, str]) -> Mapping[str, Any]:
    """The next pair of tokens: each refresh token works once, and a second use ends the login"""
    pair = refresh_pair(given["refresh_token"])
    commit_and_keep()
    if pair is None:
        raise UnauthenticatedError("This refresh token is unknown, expired, revoked or was used before: log in again.")
    return vars(pair)


@blueprint.route("/auth/logout", methods=["POST"])
@blueprint.response(204)
def logout() -> None:
    """Log out: the tokens of this login work no more"""
    revoke(presented_token())
    db.session.commit()


@blueprint.route("/me/tokens")
@blueprint.arguments(QueryOfPage, location="query")
@blueprint.response(200, page_schema(PersonalTokenSchema))
def list_tokens(query: dict[str, Any]) -> Mapping[str, Any]:
    """One's personal tokens, newest first"""
    return page_answer(personal_tokens(acting_user(), **query))


@blueprint.route("/me/tokens", methods=["POST"])
@blueprint.arguments(NewPersonalTokenSchema)
@blueprint.response(201, ShownPersonalTokenSchema)
@secret_answer
def create_token(values: dict[str, Any]) -> tuple[Mapping[str, Any], int, dict[str, str]]:
    """Make a personal token for a script: it is shown this once"""
    require(acting_user(), "tokens.create")
    text, token = issue_personal_token(acting_user(), **values)
    commit_and_keep()
    location = url_for("api_accounts.get_token", token_id=token.id)
    shown = {name: getattr(token, name) for name in PersonalTokenSchema().fields}
    return {**shown, "token": text}, 201, {"Location": location}


@blueprint.route(ONE_TOKEN)
@blueprint.response(200, PersonalTokenSchema)
def get_token(token_id: int) -> AccessToken:
    """One personal token"""
    return get_personal_token(acting_user(), token_id)


@blueprint.route(ONE_TOKEN, methods=["DELETE"])
@blueprint.response(204)
def revoke_token(token_id: int) -> None:
    """Revoke a personal token: it works no more"""
    revoke(get_personal_token(acting_user(), token_id))
    db.session.commit()


@profile.route("/me")
@profile.response(200, UserSchema)
def me() -> User:
    """Oneself"""
    return acting_user()
