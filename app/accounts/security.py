"""Flask-Security-Too: login, logout, second factors, changes of the password, and the record of logins.

It provides the views, the forms and the state between them; the templates and the effects of a login are defined here.
Its JSON responses and its authentication token are off: the API has its own tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, Response, abort, g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_login import LoginManager, current_user, user_loaded_from_cookie, user_logged_out
from flask_security import (
    RoleMixin,
    Security,
    SQLAlchemyUserDatastore,
    UserMixin,
    password_changed,
    tf_disabled,
    tf_profile_changed,
    user_authenticated,
)
from flask_security.forms import (
    ChangePasswordForm,
    Form,
    LoginForm,
    TwoFactorSetupForm,
    TwoFactorVerifyCodeForm,
    VerifyForm,
)
from flask_security.mail_util import MailUtil
from flask_security.password_util import PasswordUtil
from flask_security.utils import set_request_attr, validate_redirect_url
from wtforms import BooleanField, Field, PasswordField, StringField
from wtforms.form import BaseForm
from wtforms.validators import EqualTo, InputRequired, Length

from app import audit
from app.accounts import limits, logins, second_factor, sessions
from app.accounts.emails import send_password_changed, send_second_factor
from app.accounts.factors import HashedRecoveryCodes, OnceOnlyTotp
from app.accounts.failures import record_failure
from app.accounts.models import MAX_EMAIL_CHARACTERS, SecurityUser, User
from app.accounts.passwords import ARGON2_COSTS, NORMAL_FORM
from app.accounts.permissions import acting_user, ask_to_log_in, require_fresh_login
from app.accounts.requests import act_as, forget
from app.accounts.tokens import revoke_all
from app.accounts.validation import MAX_CODE_INPUT_CHARACTERS, MAX_PASSWORD_INPUT_CHARACTERS, valid_password
from app.schools import SchoolDisabledError
from app.web.keys import derived_key
from flask_belfry.changes import subject_of
from flask_belfry.core.access import open_endpoints, public
from flask_belfry.core.clock import utc_now
from flask_belfry.core.presentation import sentence
from flask_belfry.db import db
from flask_belfry.db.tenancy import ALL_TENANTS, use_scope

# Views that check a code or a password, which can be guessed without a limit.
SECRET_VIEWS = frozenset(
    f"security.{view}"
    for view in (
        *("two_factor_token_validation", "mf_recovery", "verify", "change_password"),
        *("two_factor_setup", "two_factor_setup_validate"),
    )
)
NEEDS_FRESH_LOGIN = frozenset(
    f"security.{view}" for view in ("two_factor_setup", "two_factor_setup_validate", "mf_recovery_codes")
)
# Steps of a login: the library would log out a logged-in user, also on GET.
LOGIN_STEPS = frozenset(f"security.{view}" for view in ("two_factor_token_validation", "tf_select", "mf_recovery"))
# Public views: the user has not yet passed both factors.
OPEN_VIEWS = ("login", "logout", "two_factor_token_validation", "tf_select", "mf_recovery")
SETTINGS: dict[str, Any] = {
    "LOGIN_URL": "/login",
    "LOGOUT_URL": "/logout",
    "LOGOUT_METHODS": ["POST"],
    "CACHE_CONTROL": None,  # app.web.headers sets it for every page
    "VERIFY_URL": "/account/verify",
    "CHANGE_URL": "/account/password",
    "TWO_FACTOR_SETUP_URL": "/account/two-factor",
    "TWO_FACTOR_TOKEN_VALIDATION_URL": "/login/code",
    "TWO_FACTOR_RESCUE_URL": "/login/rescue",
    "TWO_FACTOR_SELECT_URL": "/login/second-factor",
    "MULTI_FACTOR_RECOVERY_CODES_URL": "/account/recovery-codes",
    "MULTI_FACTOR_RECOVERY_URL": "/login/recovery-code",
    "LOGIN_USER_TEMPLATE": "accounts/login.html",
    "VERIFY_TEMPLATE": "accounts/verify.html",
    "CHANGE_PASSWORD_TEMPLATE": "accounts/change_password.html",
    "TWO_FACTOR_SETUP_TEMPLATE": "accounts/two_factor_setup.html",
    "TWO_FACTOR_VERIFY_CODE_TEMPLATE": "accounts/two_factor_code.html",
    "TWO_FACTOR_SELECT_TEMPLATE": "accounts/two_factor_select.html",
    "MULTI_FACTOR_RECOVERY_CODES_TEMPLATE": "accounts/recovery_codes.html",
    "MULTI_FACTOR_RECOVERY_TEMPLATE": "accounts/recovery_code.html",
    "POST_LOGOUT_VIEW": "security.login",
    "MSG_INVALID_PASSWORD": ("The password is wrong.", "error"),
    "MSG_INVALID_RECOVERY_CODE": ("The recovery code is wrong, or was already used.", "error"),
    "MSG_PASSWORD_CHANGE": ("Password changed.", "success"),
    "MSG_PASSWORD_IS_THE_SAME": ("The new password must differ from the current one.", "error"),
    "MSG_REAUTHENTICATION_SUCCESSFUL": ("Password confirmed.", "info"),
    "MSG_TWO_FACTOR_CHANGE_METHOD_SUCCESSFUL": ("Second factor turned on.", "success"),
    "MSG_TWO_FACTOR_DISABLED": ("Second factor turned off.", "success"),
    "MSG_TWO_FACTOR_INVALID_TOKEN": ("The code is wrong or has expired. Try again.", "error"),
    "MSG_TWO_FACTOR_PERMISSION_DENIED": ("Log in with your username and password first.", "error"),
    "TRACKABLE": True,
    "CHANGEABLE": True,
    "TWO_FACTOR": True,
    "TWO_FACTOR_ENABLED_METHODS": ["authenticator"],
    "TWO_FACTOR_RESCUE_EMAIL": False,
    "MULTI_FACTOR_RECOVERY_CODES": True,
    "TOTP_ISSUER": "Belfry",
    # In seconds: accepts the previous, the current and the next step.
    "TWO_FACTOR_AUTHENTICATOR_VALIDITY": 30,
    "FRESHNESS": sessions.FRESH_FOR,
    "FRESHNESS_GRACE_PERIOD": timedelta(0),  # otherwise each request would extend the freshness of a login
    "API_ENABLED_METHODS": ["session"],
    "DATETIME_FACTORY": utc_now,
    "JOIN_USER_ROLES": False,
    "STATIC_FOLDER": None,
    "POST_LOGIN_VIEW": "accounts.start",
    "CLI_USERS_NAME": None,
    "CLI_ROLES_NAME": None,
    "PASSWORD_NORMALIZE_FORM": NORMAL_FORM,
    "PASSWORD_HASH": "argon2",
    "PASSWORD_SCHEMES": ["argon2"],
    # Argon2 has its own salt: no second secret is needed to check a hash.
    "PASSWORD_SINGLE_HASH": {"argon2"},
    "PASSWORD_HASH_PASSLIB_OPTIONS": {f"argon2__{name}": value for name, value in ARGON2_COSTS.items()},
}


SecurityUser.__bases__ = (UserMixin,)


class RoleOfSecurity(RoleMixin):
    """What Flask-Security takes for roles: nothing. A user has one `Role`, and `permissions` alone asks for it."""


class LoginByNameForm(LoginForm):
    """A username or email address, and the password. The error does not reveal which of them is wrong."""

    email = None  # pyright: ignore[reportAssignmentType] - how a form of WTForms loses a field
    login = StringField(
        "Username or email address",
        [InputRequired("Enter your username or email address."), Length(max=MAX_EMAIL_CHARACTERS)],
    )
    password = PasswordField(
        "Password", [InputRequired("Enter your password."), Length(max=MAX_PASSWORD_INPUT_CHARACTERS)]
    )
    remember = BooleanField("Stay logged in on this device")

    def validate_next(self, field: Field) -> None:
        """Ignore a URL of another site."""
        if not validate_redirect_url(field.data or ""):
            field.data = ""

    def validate(self, **options: Any) -> bool:
        """Return whether the login is correct, and set `user`."""
        if not Form.validate(self, **options):
            return False
        try:
            self.user = limits.authenticate(self.login.data or "", self.password.data or "")
        except SchoolDisabledError as error:
            self.form_errors.append(error.message)
            return False
        if self.user is None:
            self.form_errors.append("No user has this login and password.")
        return self.user is not None


class OurChangePasswordForm(ChangePasswordForm):
    """The current password, and the new one twice."""

    password = PasswordField(
        "Current password", [InputRequired("Enter your current password."), Length(max=MAX_PASSWORD_INPUT_CHARACTERS)]
    )
    new_password = PasswordField(
        "New password", [InputRequired("Enter a new password."), Length(max=MAX_PASSWORD_INPUT_CHARACTERS)]
    )
    new_password_confirm = PasswordField(
        "New password again",
        [InputRequired("Enter the new password again."), EqualTo("new_password", "The passwords do not match.")],
    )

    def validate(self, **options: Any) -> bool:
        """Return whether both passwords are valid; a wrong current password is recorded."""
        is_valid = super().validate(**options)
        if self.password.errors and self.password.data != self.new_password.data:
            record_failure("user.password_failed", acting_user())
        return is_valid


class OurVerifyForm(VerifyForm):
    """The password, to confirm a recent login."""

    password = PasswordField(
        "Password", [InputRequired("Enter your password."), Length(max=MAX_PASSWORD_INPUT_CHARACTERS)]
    )

    def validate(self, **options: Any) -> bool:
        """Return whether the password is correct; a wrong one is recorded."""
        is_valid = super().validate(**options)
        if not is_valid and self.password.data:
            record_failure("user.password_failed", acting_user())
        return is_valid


class OurCodeForm(TwoFactorVerifyCodeForm):
    """A code of the authenticator app."""

    code = StringField(
        "Code", [InputRequired("Enter the code that the app shows."), Length(max=MAX_CODE_INPUT_CHARACTERS)]
    )

    def validate(self, **options: Any) -> bool:
        """Return whether the code is correct. A second factor must be set up in the session that began it: the secret
        that the library signs is not bound to a user."""
        if self.is_setup:
            self.user = acting_user()  # not the proxy
            if self.tf_totp_secret != session.get("tf_totp_secret"):
                return False
        return super().validate(**options)


class OurTwoFactorSetupForm(TwoFactorSetupForm):
    """Setting up a second factor; turning it off or replacing it requires a code."""

    code = StringField(
        "Code", [Length(max=MAX_CODE_INPUT_CHARACTERS)], description="From your authenticator app, or a recovery code."
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.code.flags.required = bool(acting_user().tf_primary_method)

    def validate(self, **options: Any) -> bool:
        """Return whether the form and the code are valid."""
        if not super().validate(**options):
            return False
        if second_factor.is_satisfied(acting_user(), self.code.data):
            return True
        self.code.errors = ["The code is wrong; enter a new code."]
        return False


class Users(SQLAlchemyUserDatastore):
    """The users of all schools: the school of a user is known only after the lookup."""

    @use_scope(ALL_TENANTS)
    def find_user(self, *args: Any, **kwargs: Any) -> Any:
        """Return the user by the value of a column, or None."""
        return super().find_user(*args, **kwargs)


class LedgerMailUtil(MailUtil):
    """Sends Flask-Security's mails through the ledger, in the transaction of the request."""

    def send_mail(self, template: str, *_: Any, user: User, **__: Any) -> None:
        """Send the notice of a changed password, the only mail that these settings leave to the library."""
        assert template.endswith("change_notice"), template
        send_password_changed(user)


class SamePasswordRules(PasswordUtil):
    """Checks passwords with the rules of the application."""

    def validate(self, password: str, is_register: bool, **given: Any) -> tuple[list[str] | None, str]:
        """Return the errors or None, and the normalized password."""
        user = given["user"]
        try:
            return None, self.normalize(valid_password(password, user.username, user.email))
        except ValueError as error:
            return [sentence(str(error))], password


def init_app(app: Flask) -> None:
    """Add the views and load the user of each session."""
    app.config.from_mapping({f"SECURITY_{name}": value for name, value in SETTINGS.items()})
    with app.app_context():
        app.config["SECURITY_TOTP_SECRETS"] = {"1": derived_key("totp").hex()}
        # Required by the library, but used only for other kinds of hashes.
        app.config["SECURITY_PASSWORD_SALT"] = derived_key("password").hex()
    security = Security(
        app,
        Users(db, User, RoleOfSecurity),
        login_form=LoginByNameForm,
        change_password_form=OurChangePasswordForm,
        verify_form=OurVerifyForm,
        two_factor_setup_form=OurTwoFactorSetupForm,
        two_factor_verify_code_form=OurCodeForm,
        mail_util_cls=LedgerMailUtil,
        password_util_cls=SamePasswordRules,
        totp_cls=OnceOnlyTotp,
        mf_recovery_codes_util_cls=HashedRecoveryCodes,
        render_template=_render,
    )
    # Flask-Principal would load the user of every request, static files included, for rules that no view uses.
    functions = app.before_request_funcs[None]
    functions[:] = [each for each in functions if getattr(each, "__self__", None) is not security.principal]
    security.want_json(lambda _: False)
    security.unauthn_handler(lambda *_, **__: ask_to_log_in())
    _recognise_sessions(security.login_manager)
    open_endpoints(app, *(f"security.{view}" for view in OPEN_VIEWS))
    # The view mails the operators if a user has lost the second factor; recovery codes replace it.
    app.view_functions["security.two_factor_rescue"] = public(lambda: abort(404))
    app.before_request(_check_broken_next)
    app.before_request(_guard_views)
    app.before_request(_limit_guesses)
    user_authenticated.connect(_begin, app)
    user_logged_out.connect(_end, app)
    user_loaded_from_cookie.connect(_forget_freshness, app)
    password_changed.connect(_end_tokens, app)
    tf_profile_changed.connect(_notify_second_factor_on, app)
    tf_disabled.connect(_notify_second_factor_off, app)


def _render(template: str, **context: Any) -> Any:
    """Return a page of Flask-Security's views, with status 422 if a form has errors."""
    html = render_template(template, **context)
    is_refused = any(isinstance(value, BaseForm) and (value.errors or value.form_errors) for value in context.values())
    return Response(html, 422) if is_refused else html


def _recognise_sessions(login_manager: LoginManager) -> None:
    @login_manager.user_loader
    def load_session_user(session_id: str) -> User | None:
        """Load the user at the first access to `current_user`, by the id of either cookie."""
        row = sessions.find(session_id)
        if row is None:
            return None
        g.login_session = row
        # Flask-Security's views read these.
        set_request_attr("fs_authn_via", "session")
        set_request_attr(sessions.AUTHENTICATED_AT, session.get(sessions.AUTHENTICATED_AT, 0))
        act_as(row.user)
        return row.user

    # Flask-Security's token in a header or query: pages accept no tokens.
    login_manager.request_loader(lambda _: None)


def _forget_freshness(_: Flask, **__: Any) -> None:
    """Forget the time of the login if the remember cookie restored the session: it belongs to another session."""
    session.pop(sessions.AUTHENTICATED_AT, None)
    set_request_attr(sessions.AUTHENTICATED_AT, 0)


def _check_broken_next() -> None:
    """Reject an invalid URL such as `//[::1`, which Flask-Security cannot parse."""
    if request.blueprint == "security":
        for given in (*request.args.getlist("next"), *request.form.getlist("next")):
            try:
                urlsplit(given.replace("\\", "/"))
            except ValueError:
                abort(400, "The page to continue to is not a valid URL.")


def _guard_views() -> ResponseReturnValue | None:
    if request.endpoint in NEEDS_FRESH_LOGIN:
        require_fresh_login()
    if request.endpoint in LOGIN_STEPS and current_user.is_authenticated:
        return redirect(url_for("accounts.start"))
    return None


def _limit_guesses() -> None:
    if request.method == "POST" and request.endpoint in SECRET_VIEWS:
        limits.hit_code()


def _begin(_: Flask, user: User, authn_via: Collection[str] | None, **__: Any) -> None:
    """Called after a login with all its factors, and after a change of the password. The view commits."""
    act_as(user)
    sessions.begin(user)
    ways = authn_via or ()  # None after a second factor
    if "change" not in ways:
        audit.record("user.login", subject_of(user))
        logins.note(user, is_registration="registration" in ways)


def _end(_: Flask, user: User | None, **__: Any) -> None:
    """Called at a logout."""
    if user is not None:
        audit.record("user.logout", subject_of(user))
        sessions.end_presented()
        db.session.commit()  # the view does not commit
        forget()


def _end_tokens(_: Flask, user: User, **__: Any) -> None:
    revoke_all(user)
    sessions.end_all(user, but=sessions.current_of(user))


def _notify_second_factor_on(_: Flask, **__: Any) -> None:
    send_second_factor(acting_user(), "set-up")


def _notify_second_factor_off(_: Flask, **__: Any) -> None:
    second_factor.remove(acting_user())
    send_second_factor(acting_user(), "turned-off")
