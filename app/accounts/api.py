"""The API of accounts: logging in and out, and oneself."""

from __future__ import annotations

from typing import Any

from app.accounts import limits, registration
from app.accounts.models import User
from app.accounts.permissions import claimant, present_user
from app.accounts.requests import act_as, presented_token
from app.accounts.schemas import (
    AddressSchema,
    CodeSchema,
    LoginSchema,
    MessageSchema,
    NewPasswordSchema,
    RegisteredSchema,
    RegistrationSchema,
    TokenSchema,
    UserSchema,
)
from app.accounts.tokens import TOKEN_LIFETIME, issue_token, revoke
from app.api import ApiBlueprint, UnauthenticatedError, public
from app.extensions import db

blueprint = ApiBlueprint("accounts", __name__, description="Joining, logging in, and oneself")

TOO_OFTEN = "That was tried too often: Retry-After says how many seconds to wait."


@blueprint.route("/auth/register", methods=["POST"])
@blueprint.arguments(RegistrationSchema)
@blueprint.response(201, RegisteredSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@blueprint.doc(security=[])
@public
def register(fields: dict[str, str]) -> dict[str, Any]:
    """Join: a user whose address is yet to be confirmed, and a mail with the code for it

    Whether the address is registered already is not told: then its owner gets another mail.
    """
    limits.spend_registration(fields["email"])
    user, mail_id = registration.register(**fields)
    tokens = _tokens(user)
    db.session.commit()
    posted = registration.post(mail_id)
    return {
        **tokens,
        "user_data": user,
        "email_confirmation_sent": posted.is_on_its_way,
        "message": f"You are registered. {posted.message}",
        "email_info": posted.describe(),
    }


@blueprint.route("/auth/confirm", methods=["POST"])
@blueprint.arguments(CodeSchema)
@blueprint.response(200, UserSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@blueprint.doc(security=[])
@public
def confirm(fields: dict[str, str]) -> User:
    """Confirm an address by the six digits of the mail"""
    limits.spend_code()
    return registration.confirm_by_digits(fields["email"], fields["code"])


@blueprint.route("/auth/resend-confirmation", methods=["POST"])
@blueprint.arguments(AddressSchema)
@blueprint.response(202, MessageSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@blueprint.doc(security=[])
@public
def resend_confirmation(fields: dict[str, str]) -> dict[str, str]:
    """Ask for another code; the answer is the same whether or not the address waits for one"""
    limits.spend_mail(fields["email"])
    registration.request_confirmation(fields["email"], claimant())
    return {"message": "If this address waits to be confirmed, a mail with a new code is on its way."}


@blueprint.route("/auth/password-reset", methods=["POST"])
@blueprint.arguments(AddressSchema)
@blueprint.response(202, MessageSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@blueprint.doc(security=[])
@public
def request_password_reset(fields: dict[str, str]) -> dict[str, str]:
    """Ask for a link to a new password; the answer is the same whether or not the address is registered"""
    limits.spend_mail(fields["email"])
    registration.request_password_reset(fields["email"])
    return {"message": "If this address is registered, a mail with a link to a new password is on its way."}


@blueprint.route("/auth/password-reset/confirm", methods=["POST"])
@blueprint.arguments(NewPasswordSchema)
@blueprint.response(200, MessageSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@blueprint.doc(security=[])
@public
def reset_password(fields: dict[str, str]) -> dict[str, str]:
    """Choose a new password: every session and token ends"""
    limits.spend_code()
    registration.reset_password(fields["token"], fields["password"])
    return {"message": "The password is changed: log in with it."}


@blueprint.route("/auth/login", methods=["POST"])
@blueprint.arguments(LoginSchema)
@blueprint.response(200, TokenSchema)
@blueprint.alt_response(401, description="No user has this login and password.")
@blueprint.alt_response(429, description=TOO_OFTEN)
@blueprint.doc(security=[])
@public
def login(credentials: dict[str, str]) -> dict[str, Any]:
    """Log in: an access token for a username or email address and a password"""
    identifier = credentials.get("username") or credentials.get("email") or ""
    user = limits.authenticate(identifier, credentials["password"])
    if user is None:
        raise UnauthenticatedError("No user has this login and password.")
    act_as(user)
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
    return present_user()


def _tokens(user: User) -> dict[str, Any]:
    """What a new user begins with. The caller commits."""
    access_token, _ = issue_token(user)
    return {
        "access_token": access_token,
        "refresh_token": access_token,
        "expires_in": int(TOKEN_LIFETIME.total_seconds()),
    }
