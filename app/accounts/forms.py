"""The forms for joining, for a forgotten password and of personal tokens. validation.py says what fields take."""

from __future__ import annotations

from flask_wtf import FlaskForm
from wtforms import EmailField, PasswordField, SelectField, SelectMultipleField, StringField, ValidationError
from wtforms.fields.choices import SelectChoice  # pyright: ignore[reportAttributeAccessIssue] - newer than its stubs
from wtforms.validators import InputRequired, Length

from app.accounts.models import MAX_TOKEN_NAME_CHARACTERS
from app.accounts.passwords import MIN_PASSWORD_CHARACTERS
from app.api import SCOPES
from app.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED

# In days; 0 is for good.
TOKEN_LIFETIMES = {"30": "30 days", "90": "90 days", "365": "a year", "0": "until it is revoked"}


class RegistrationForm(FlaskForm):
    """Who wants to join."""

    username = StringField("Username", [InputRequired("Choose one."), Length(max=254)])
    email = EmailField("Email address", [InputRequired("Type your address."), Length(max=254)])
    password = PasswordField(
        "Password",
        [InputRequired("Choose one."), Length(max=1_000)],
        description=f"At least {MIN_PASSWORD_CHARACTERS} characters.",
    )


class AddressForm(FlaskForm):
    """An address to send a mail to."""

    email = EmailField("Email address", [InputRequired("Type your address."), Length(max=254)])


class CodeForm(AddressForm):
    """An address, and the six digits that a mail brought there."""

    code = StringField("Code", [InputRequired("Type the six digits of the mail."), Length(max=20)])


class NewPasswordForm(FlaskForm):
    """A password."""

    password = PasswordField(
        "New password",
        [InputRequired("Choose one."), Length(max=1_000)],
        description=f"At least {MIN_PASSWORD_CHARACTERS} characters.",
    )


class PersonalTokenForm(FlaskForm):
    """What a script's token is for, and what it may do."""

    name = StringField("Name", [InputRequired("Say what it is for."), Length(max=MAX_TOKEN_NAME_CHARACTERS)])
    scopes = SelectMultipleField(
        "May", [InputRequired("Choose at least one.")], choices=[SelectChoice(scope, scope) for scope in SCOPES]
    )
    days = SelectField(
        "Works for",
        [InputRequired("Choose one.")],
        choices=[SelectChoice(*each) for each in TOKEN_LIFETIMES.items()],
        default="90",
    )

    def validate_name(self, field: StringField) -> None:
        """Called by WTForms."""
        if CONTROL_CHARACTERS.search(field.data or ""):
            raise ValidationError(CONTROL_CHARACTERS_REFUSED)
