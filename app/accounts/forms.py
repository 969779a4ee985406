"""The login form, and that of personal tokens."""

from __future__ import annotations

from flask_wtf import FlaskForm
from wtforms import BooleanField, PasswordField, SelectField, SelectMultipleField, StringField, ValidationError
from wtforms.fields.choices import SelectChoice  # pyright: ignore[reportAttributeAccessIssue] - newer than its stubs
from wtforms.validators import InputRequired, Length

from app.accounts.models import MAX_TOKEN_NAME_CHARACTERS
from app.api import SCOPES
from app.text import CONTROL_CHARACTERS, CONTROL_CHARACTERS_REFUSED

# In days; 0 is for good.
TOKEN_LIFETIMES = {"30": "30 days", "90": "90 days", "365": "a year", "0": "until it is revoked"}


class LoginForm(FlaskForm):
    """A username or email address, and the password."""

    login = StringField("Username or email address", [InputRequired("Type one of them."), Length(max=254)])
    password = PasswordField("Password", [InputRequired("Type your password."), Length(max=1_000)])
    remember = BooleanField("Stay logged in on this device")


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
