"""The login form."""

from __future__ import annotations

from flask_wtf import FlaskForm
from wtforms import BooleanField, PasswordField, StringField
from wtforms.validators import InputRequired, Length


class LoginForm(FlaskForm):
    """A username or email address, and the password."""

    login = StringField("Username or email address", [InputRequired("Type one of them."), Length(max=254)])
    password = PasswordField("Password", [InputRequired("Type your password."), Length(max=1_000)])
    remember = BooleanField("Stay logged in on this device")
