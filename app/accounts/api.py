"""The API of accounts: registration, login, tokens and the profile."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import url_for

from app import audit
from app.accounts import limits, logins, registration, second_factor
from app.accounts import profile as profiles
from app.accounts.models import AccessToken, User
from app.accounts.permissions import acting_user, claimant, require, require_fresh_login
from app.accounts.requests import act_as, presented_token
from app.accounts.schemas import (
    CodeSchema,
    DeletionSchema,
    EmailSchema,
    ExportSchema,
    LoginSchema,
    MessageSchema,
    NewPasswordSchema,
    NewPersonalTokenSchema,
    PairSchema,
    PersonalTokenSchema,
    ProfileChangesSchema,
    ProfileSchema,
    RefreshSchema,
    RegisteredSchema,
    RegistrationSchema,
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
from app.api import UnauthenticatedError, secret_response
from app.api.web import ApiBlueprint, QueryOfPage, check_stale, page_response, page_schema, versioned
from flask_belfry.changes import subject_of
from flask_belfry.core.access import for_unconfirmed, public
from flask_belfry.db import commit_and_keep, db

# Without an area: personal tokens can neither create nor end logins.
blueprint = ApiBlueprint("accounts", __name__, description="Registration, login and tokens")
profile = ApiBlueprint("profile", __name__, description="The profile of the user", area="profile")

ONE_TOKEN = "/me/tokens/<id:token_id>"  # noqa: S105 - a path

TOO_OFTEN = "Too many attempts: wait for the seconds of Retry-After."


@blueprint.route("/auth/register", methods=["POST"])
@blueprint.arguments(RegistrationSchema)
@blueprint.response(201, RegisteredSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@public
def register(fields: dict[str, str]) -> dict[str, Any]:
    """Register a user, whose email address is confirmed by the code in a mail

    The response does not reveal whether the email address is already registered: its owner then receives another mail.
    """
    collects_mail = limits.hit_registration(fields["email"])
    user, mail_id = registration.register(**fields, collects_mail=collects_mail)
    act_as(user)
    logins.note(user, is_registration=True)
    pair = issue_pair(user)
    commit_and_keep()
    posted = registration.post(mail_id)
    return {
        "access_token": pair.access_token,
        "expires_in": pair.expires_in,
        "refresh_token": pair.refresh_token,
        "refresh_expires_in": pair.refresh_expires_in,
        "user_data": user,
        "email_confirmation_sent": posted.is_on_its_way,
        "message": f"You are registered. {posted.message}",
        "email_info": posted.describe(),
    }


@blueprint.route("/auth/confirm", methods=["POST"])
@blueprint.arguments(CodeSchema)
@blueprint.response(200, UserSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@public
def confirm(fields: dict[str, str]) -> User:
    """Confirm an email address by the six-digit code of the mail"""
    limits.hit_code()
    return registration.confirm_by_digits(fields["email"], fields["code"])


@blueprint.route("/auth/resend-confirmation", methods=["POST"])
@blueprint.arguments(EmailSchema)
@blueprint.response(202, MessageSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@public
def resend_confirmation(fields: dict[str, str]) -> dict[str, str]:
    """Request another code; the response does not reveal whether the email address waits for one"""
    collects_mail = limits.hit_mail(fields["email"])
    registration.request_confirmation(fields["email"], claimant(), collects_mail=collects_mail)
    return {"message": "If this email address is waiting for confirmation, a mail with a new code was sent to it."}


@blueprint.route("/auth/password-reset", methods=["POST"])
@blueprint.arguments(EmailSchema)
@blueprint.response(202, MessageSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@public
def request_password_reset(fields: dict[str, str]) -> dict[str, str]:
    """Request a link to set a new password; the response does not reveal whether the email address is registered"""
    collects_mail = limits.hit_mail(fields["email"])
    registration.request_password_reset(fields["email"], collects_mail=collects_mail)
    return {"message": "If this email address is registered, a mail with a link to set a new password was sent to it."}


@blueprint.route("/auth/password-reset/confirm", methods=["POST"])
@blueprint.arguments(NewPasswordSchema)
@blueprint.response(200, MessageSchema)
@blueprint.alt_response(429, description=TOO_OFTEN)
@public
def reset_password(fields: dict[str, str]) -> dict[str, str]:
    """Set a new password; all sessions and tokens end"""
    limits.hit_code()
    registration.reset_password(fields["token"], fields["password"])
    return {"message": "Password changed: log in with the new password."}


@blueprint.route("/auth/login", methods=["POST"])
@blueprint.arguments(LoginSchema)
@blueprint.response(200, PairSchema)
@blueprint.alt_response(401, description="No user has this login and password.")
@blueprint.alt_response(403, description="The user's school is disabled.")
@blueprint.alt_response(429, description=TOO_OFTEN)
@public
def login(credentials: dict[str, str]) -> Mapping[str, Any]:
    """Log in with a username or email address and a password; returns a pair of tokens

    The user is notified by mail of the first login from a new IP address.
    """
    identifier = credentials.get("username") or credentials.get("email") or ""
    user = limits.authenticate(identifier, credentials["password"])
    if user is None:
        raise UnauthenticatedError("No user has this login and password.")
    if user.tf_primary_method:
        limits.hit_code()
    if not second_factor.is_satisfied(user, credentials.get("code")):
        raise UnauthenticatedError(
            "This user has a second factor: send its code as well.",
            {"code": ["must be a new code from the authenticator app"]},
        )
    act_as(user)
    audit.record("user.login", subject_of(user), details={"with": "password, for a token"})
    logins.note(user)
    pair = issue_pair(user)
    commit_and_keep()
    return vars(pair)


@blueprint.route("/auth/refresh", methods=["POST"])
@blueprint.arguments(RefreshSchema)
@blueprint.response(200, PairSchema)
@blueprint.alt_response(401, description="The refresh token is unknown, expired, revoked or already used.")
@blueprint.alt_response(403, description="The user's school is disabled.")
@public
def refresh(given: dict[str, str]) -> Mapping[str, Any]:
    """Return the next pair of tokens; a refresh token works once, and a second use ends the login"""
    pair = refresh_pair(given["refresh_token"])
    commit_and_keep()
    if pair is None:
        raise UnauthenticatedError("This refresh token is unknown, expired, revoked or already used: log in again.")
    return vars(pair)


@blueprint.route("/auth/logout", methods=["POST"])
@blueprint.response(204)
@for_unconfirmed
def logout() -> None:
    """Log out; the tokens of this login stop working"""
    revoke(presented_token())
    db.session.commit()


@blueprint.route("/me/tokens")
@blueprint.arguments(QueryOfPage, location="query")
@blueprint.response(200, page_schema(PersonalTokenSchema))
def list_tokens(query: dict[str, Any]) -> Mapping[str, Any]:
    """List your personal tokens, newest first"""
    return page_response(personal_tokens(acting_user(), **query))


@blueprint.route("/me/tokens", methods=["POST"])
@blueprint.arguments(NewPersonalTokenSchema)
@blueprint.response(201, ShownPersonalTokenSchema)
@secret_response
def create_token(values: dict[str, Any]) -> tuple[Mapping[str, Any], int, dict[str, str]]:
    """Create a personal token for a script; the token is shown once"""
    require(acting_user(), "tokens.create")
    require_fresh_login()
    text, token = issue_personal_token(acting_user(), **values)
    commit_and_keep()
    location = url_for("api_accounts.get_token", token_id=token.id)
    shown = {name: getattr(token, name) for name in PersonalTokenSchema().fields}
    return {**shown, "token": text}, 201, {"Location": location}


@blueprint.route(ONE_TOKEN)
@blueprint.response(200, PersonalTokenSchema)
def get_token(token_id: int) -> AccessToken:
    """Return a personal token"""
    return get_personal_token(acting_user(), token_id)


@blueprint.route(ONE_TOKEN, methods=["DELETE"])
@blueprint.response(204)
def revoke_token(token_id: int) -> None:
    """Revoke a personal token; it stops working immediately"""
    revoke(get_personal_token(acting_user(), token_id))
    db.session.commit()


@profile.route("/me")
@versioned
@profile.response(200, ProfileSchema)
def me() -> Mapping[str, Any]:
    """Return your profile with your message preferences"""
    return profiles.profile_of(acting_user())


@profile.route("/me", methods=["PATCH"])
@versioned
@profile.arguments(ProfileChangesSchema)
@profile.response(200, ProfileSchema)
def change_me(changes: dict[str, Any]) -> Mapping[str, Any]:
    """Change your name, time zone and message preferences; all of the changes or none"""
    user = profiles.lock(acting_user())
    check_stale(ProfileSchema, profiles.profile_of(user))
    profiles.update(user, changes)
    changed = profiles.profile_of(user)
    db.session.commit()
    return changed


# Both without an area: a script must not get data beyond its scopes, nor delete its user.
@blueprint.route("/me/export")
@blueprint.response(200, ExportSchema)
def export_me() -> tuple[Mapping[str, Any], int, dict[str, str]]:
    """Return all data about you as a file"""
    user = acting_user()
    require_fresh_login()
    exported = profiles.export(user)
    commit_and_keep()  # the audit log records the export
    return exported, 200, profiles.export_headers(exported)


@blueprint.route("/me", methods=["DELETE"])
@blueprint.arguments(DeletionSchema)
@blueprint.response(204)
@blueprint.alt_response(409, description="You are the only admin.")
@blueprint.alt_response(429, description=TOO_OFTEN)
def delete_me(proof: dict[str, str]) -> None:
    """Delete your account and your data; future reservations are cancelled"""
    user = acting_user()
    profiles.prove(user, proof["password"], proof.get("code"))
    profiles.delete(user)
    db.session.commit()
