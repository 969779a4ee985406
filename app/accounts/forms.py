"""The forms for joining and for a forgotten password. What the fields take stands in validation.py."""

from __future__ import annotations

from flask_wtf import FlaskForm
from wtforms import EmailField, PasswordField, StringField
from wtforms.validators import InputRequired, Length

from app.accounts.passwords import MIN_PASSWORD_CHARACTERS


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
