"""The forms for joining, for a forgotten password, of personal tokens and of one's profile. validation.py says what
fields take."""

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
    ValidationError,
)
from wtforms.fields.choices import SelectChoice  # pyright: ignore[reportAttributeAccessIssue] - newer than its stubs
from wtforms.validators import InputRequired, Length

from app.accounts.models import MAX_TOKEN_NAME_CHARACTERS, Channel
from app.accounts.passwords import MIN_PASSWORD_CHARACTERS
from app.accounts.validation import MAX_NAME_CHARACTERS
from app.api import AREAS, READ, SCOPES, WRITE
from flask_belfry.core.presentation import label
from flask_belfry.core.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED
from flask_belfry.mail import optional_kinds

# In days; 0 is for good.
TOKEN_LIFETIMES = {"30": "30 days", "90": "90 days", "365": "1 year", "0": "Until it is revoked"}


class RegistrationForm(FlaskForm):
    """Who wants to join."""

    username = StringField("Username", [InputRequired("Enter a username."), Length(max=254)])
    email = EmailField("Email address", [InputRequired("Enter your email address."), Length(max=254)])
    password = PasswordField(
        "Password",
        [InputRequired("Enter a password."), Length(max=1_000)],
        description=f"At least {MIN_PASSWORD_CHARACTERS} characters.",
    )


class AddressForm(FlaskForm):
    """An address to send a mail to."""

    email = EmailField("Email address", [InputRequired("Enter your email address."), Length(max=254)])


class CodeForm(AddressForm):
    """An address, and the six digits that a mail brought there."""

    code = StringField("Code", [InputRequired("Enter the six digits from the email."), Length(max=20)])


class NewPasswordForm(FlaskForm):
    """A password."""

    password = PasswordField(
        "New password",
        [InputRequired("Enter a password."), Length(max=1_000)],
        description=f"At least {MIN_PASSWORD_CHARACTERS} characters.",
    )


# What each scope allows, by the part of the API that it is for.
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
    """What a script's token is for, and what it may do."""

    name = StringField("Name", [InputRequired("This field is required."), Length(max=MAX_TOKEN_NAME_CHARACTERS)])
    scopes = SelectMultipleField(
        "Scopes", [InputRequired("Select at least one.")], choices=[SelectChoice(scope, scope) for scope in SCOPES]
    )
    days = SelectField(
        "Valid for",
        [InputRequired("Select one.")],
        choices=[SelectChoice(*each) for each in TOKEN_LIFETIMES.items()],
        default="90",
    )

    def validate_name(self, field: StringField) -> None:
        """Called by WTForms."""
        if CONTROL_CHARACTERS.search(field.data or ""):
            raise ValidationError(CONTROL_CHARACTERS_REFUSED)


class ProfileForm(FlaskForm):
    """What users change of themselves."""

    name = StringField("Name", [InputRequired("Enter a name."), Length(max=MAX_NAME_CHARACTERS)])
    time_zone = SelectField("Time zone", choices=lambda: [_zone_of_school(), *_zones()])
    skips_own_changes = BooleanField("Not about changes I made myself")
    wanted = SelectMultipleField("Messages", choices=lambda: [SelectChoice(wish) for wish in wishes()])


class DeletionForm(FlaskForm):
    """Who deletes an account: proven again."""

    password = PasswordField("Password", [InputRequired("Enter your password."), Length(max=1_000)])
    code = StringField("Code", [Length(max=40)], description="From your authenticator app, or a recovery code.")


def wishes() -> dict[str, tuple[str, Channel]]:
    """What `ProfileForm.wanted` takes, each with the kind of message and the channel that it stands for."""
    return {f"{kind}.{channel}": (kind, channel) for kind in optional_kinds() for channel in Channel}


def _zone_of_school() -> SelectChoice:
    return SelectChoice("", f"The school's ({current_app.config['TIMEZONE']})")


@cache
def _zones() -> list[SelectChoice]:
    """All zones by the part of the world they are in; asked of the file system once."""
    zones = [(zone.rpartition("/")[0].partition("/")[0] or "Others", zone) for zone in available_timezones()]
    in_order = sorted(zones, key=lambda each: (each[0] == "Others", each))
    return [SelectChoice(zone, zone.replace("_", " "), optgroup=region) for region, zone in in_order]
