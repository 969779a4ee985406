"""The API of accounts: logging in and out, and oneself."""

from __future__ import annotations

from typing import Any

from app import audit
from app.accounts import services
from app.accounts.models import User
from app.accounts.permissions import acting_user
from app.accounts.requests import act_as, presented_token
from app.accounts.schemas import LoginSchema, TokenSchema, UserSchema
from app.accounts.tokens import TOKEN_LIFETIME, issue_token, revoke
from app.api import ApiBlueprint, UnauthenticatedError, public
from app.extensions import db
from app.outbox import subject_of

blueprint = ApiBlueprint("accounts", __name__, description="Logging in, and oneself")


@blueprint.route("/auth/login", methods=["POST"])
@blueprint.arguments(LoginSchema)
@blueprint.response(200, TokenSchema)
@blueprint.alt_response(401, description="No user has this login and password.")
@blueprint.doc(security=[])
@public
def login(credentials: dict[str, str]) -> dict[str, Any]:
    """Log in: an access token for a username or email address and a password"""
    identifier = credentials.get("username") or credentials.get("email") or ""
    user = services.authenticate(identifier, credentials["password"])
    if user is None:
        raise UnauthenticatedError("No user has this login and password.")
    act_as(user)
    audit.record("user.login", subject_of(user), details={"with": "password, for a token"})
    access_token, _ = issue_token(user)
    db.session.commit()
    seconds = int(TOKEN_LIFETIME.total_seconds())
    return {"access_token": access_token, "expires_in": seconds, "user": user}


@blueprint.route("/auth/logout", methods=["POST"])
@blueprint.response(204)
def logout() -> None:
    """Log out: the access token of this request works no more"""
    revoke(presented_token())
    db.session.commit()


@blueprint.route("/me")
@blueprint.response(200, UserSchema)
def me() -> User:
    """Oneself"""
    return acting_user()
