"""The forms for registration, a forgotten password, personal tokens and the profile.

The rules of the fields are in validation.py.
"""

from __future__ import annotations

from functools import cache
from zoneinfo import available_timezones

from flask import current_app
from flask_wtf import FlaskForm
from wtforms import (
    BooleanField,
    EmailField,
    PasswordField,
    SelectField,
    SelectMultipleField,
    StringField,
)
from wtforms.fields.choices import SelectChoice  # pyright: ignore[reportAttributeAccessIssue] - newer than its stubs
from wtforms.validators import InputRequired, Length

from app.accounts.models import MAX_EMAIL_CHARACTERS, MAX_NAME_CHARACTERS, MAX_TOKEN_NAME_CHARACTERS, Channel
from app.accounts.passwords import MIN_PASSWORD_CHARACTERS
from app.accounts.permissions import acting_user
from app.accounts.validation import MAX_CODE_INPUT_CHARACTERS, MAX_PASSWORD_INPUT_CHARACTERS
from app.api import AREAS, READ, SCOPES, WRITE
from app.web.forms import REQUIRED, ServiceForm, plain_text
from flask_belfry.core.presentation import label
from flask_belfry.mail import optional_kinds

# By days; 0 means unlimited.
TOKEN_LIFETIMES = {"30": "30 days", "90": "90 days", "365": "1 year", "0": "Until it is revoked"}


class RegistrationForm(ServiceForm):
    """A registration."""

    username = StringField("Username", [InputRequired("Enter a username."), Length(max=MAX_EMAIL_CHARACTERS)])
    email = EmailField("Email address", [InputRequired("Enter your email address."), Length(max=MAX_EMAIL_CHARACTERS)])
    password = PasswordField(
        "Password",
        [InputRequired("Enter a password."), Length(max=MAX_PASSWORD_INPUT_CHARACTERS)],
        description=f"At least {MIN_PASSWORD_CHARACTERS} characters.",
    )


class EmailForm(FlaskForm):
    """The email address to send a mail to."""

    email = EmailField("Email address", [InputRequired("Enter your email address."), Length(max=MAX_EMAIL_CHARACTERS)])


class CodeForm(EmailForm):
    """An email address and the six-digit code of the mail sent to it."""

    code = StringField(
        "Code", [InputRequired("Enter the six digits from the email."), Length(max=MAX_CODE_INPUT_CHARACTERS)]
    )


class NewPasswordForm(ServiceForm):
    """A new password."""

    password = PasswordField(
        "New password",
        [InputRequired("Enter a password."), Length(max=MAX_PASSWORD_INPUT_CHARACTERS)],
        description=f"At least {MIN_PASSWORD_CHARACTERS} characters.",
    )


# What each scope allows, by area of the API.
SCOPE_GROUPS: dict[str, dict[str, str]] = {
    "Everything": {
        "read": "See everything that you may see",
        "write": "See and change everything that you may change",
    },
    **{
        label(area): dict(zip((f"{area}:{READ}", f"{area}:{WRITE}"), texts, strict=True))
        for area, texts in AREAS.items()
    },
}


class PersonalTokenForm(FlaskForm):
    """A new personal token."""

    name = StringField("Name", [InputRequired(REQUIRED), Length(max=MAX_TOKEN_NAME_CHARACTERS), plain_text])
    scopes = SelectMultipleField(
        "Scopes", [InputRequired("Select at least one.")], choices=[SelectChoice(scope, scope) for scope in SCOPES]
    )
    days = SelectField(
        "Valid for",
        [InputRequired("Select one.")],
        choices=[SelectChoice(*each) for each in TOKEN_LIFETIMES.items()],
        default="90",
    )


class ProfileForm(ServiceForm):
    """The fields of their profile that users change."""

    name = StringField("Name", [InputRequired("Enter a name."), Length(max=MAX_NAME_CHARACTERS)])
    time_zone = SelectField("Time zone", choices=lambda: [_zone_of_school(), *_zones()])
    skips_own_changes = BooleanField("Do not notify me of my own changes")
    wanted = SelectMultipleField("Messages", choices=lambda: [SelectChoice(choice) for choice in message_choices()])


class DeletionForm(ServiceForm):
    """The proof of identity for the deletion of an account."""

    password = PasswordField(
        "Password", [InputRequired("Enter your password."), Length(max=MAX_PASSWORD_INPUT_CHARACTERS)]
    )
    code = StringField(
        "Code", [Length(max=MAX_CODE_INPUT_CHARACTERS)], description="From your authenticator app, or a recovery code."
    )


def message_choices() -> dict[str, tuple[str, Channel]]:
    """Return the choices of `ProfileForm.wanted`, each with its kind of message and its channel: messages of these
    kinds are mailed only."""
    return {f"{kind}.{Channel.MAIL}": (kind, Channel.MAIL) for kind in optional_kinds()}


def _zone_of_school() -> SelectChoice:
    return SelectChoice("", f"The school's ({acting_user().school.time_zone or current_app.config['TIMEZONE']})")


@cache
def _zones() -> list[SelectChoice]:
    """Return all time zones by region; read from the file system once."""
    zones = [(zone.rpartition("/")[0].partition("/")[0] or "Others", zone) for zone in available_timezones()]
    in_order = sorted(zones, key=lambda each: (each[0] == "Others", each))
    return [SelectChoice(zone, zone.replace("_", " "), optgroup=region) for region, zone in in_order]
